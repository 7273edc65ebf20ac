"""The README's commands, for tests that run them."""

import re
import shlex
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def commands_of(section: str, word: str) -> list[tuple[str, list[str]]]:
    """Modules and arguments of the commands in the one block of a section, named by its heading, that holds a word.

    A variable that a line sets is put in where the other lines name it.
    """
    text = README.read_text().partition(f"### {section}\n")[2].partition("\n### ")[0]
    (block,) = (block for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if word in block)
    commands, variables = [], {}
    for line in block.replace("\\\n", " ").splitlines():
        if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[f"${assigned[1]}"] = assigned[2].split()
            continue
        words = [part for word in shlex.split(line, comments=True) for part in variables.get(word, [word])]
        assert words[:2] == ["python", "-m"], line
        commands.append((words[2], words[3:]))
    return commands
