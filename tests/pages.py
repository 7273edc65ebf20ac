"""The pages of the documentation and the records that they link to: blocks of code and commands, for tests."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md")))]
RECORDS = [
    str(path.relative_to(ROOT))
    for pattern in ("benchmarks/results/*.md", "pipelines/shipped/*/README.md")
    for path in sorted(ROOT.glob(pattern))
]


def read(page: str, heading: str | None = None) -> str:
    """The text of a page, or of the section below one of its headings, with all sections inside of it."""
    text = (ROOT / page).read_text()
    if heading is None:
        return text
    plain = re.sub(r"^```.*?^```", lambda block: re.sub("[^\n]", ".", block[0]), text, flags=re.DOTALL | re.MULTILINE)
    (start,) = re.finditer(rf"^(#+) {re.escape(heading)}\n", plain, re.MULTILINE)
    end = re.compile(rf"^#{{1,{len(start[1])}}} ", re.MULTILINE).search(plain, start.end())
    return text[start.end() : end.start() if end else None]


def blocks(text: str, language: str) -> list[str]:
    """What stands between ```language and ```."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def command_lines(block: str) -> Iterator[list[str]]:
    """The words of every command of a block of bash; a variable that a line sets is put in where others name it."""
    variables = {}
    for line in block.replace("\\\n", " ").splitlines():
        if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[f"${assigned[1]}"] = assigned[2].split()
        elif words := shlex.split(line, comments=True):
            yield [part for word in words for part in variables.get(word, [word])]


def commands_of(page: str, heading: str, word: str) -> list[tuple[str, list[str]]]:
    """Modules and arguments of the commands in the one block of a section that holds a word."""
    (block,) = (block for block in blocks(read(page, heading), "bash") if word in block)
    lines = list(command_lines(block))
    assert all(line[:2] == ["python", "-m"] for line in lines), lines
    return [(module, arguments) for _, _, module, *arguments in lines]


def words_of(page: str) -> list[str]:
    """What stands between backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE))
