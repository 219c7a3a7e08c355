"""Checks the language of names, comments, docstrings, messages and documents against the tables in CONTRIBUTING.md.

Run it as `python -m dev.check_language [PATH ...]`. Without paths it checks the whole repository."""

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "CONTRIBUTING.md"
MAX_SENTENCE_WORDS = 30
"""The longest sentence of a docstring. Code in backquotes counts as one word."""

_EXCLUDED = ("tests/recordings/", "docs/performance/", "dev/check_language.py", "tests/test_language.py")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_CODE_SPAN = re.compile(r"``.+?``|`[^`]+`", re.DOTALL)
_FENCED_CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?:;])(?:[\"')\]]*)\s+(?=[A-Z`\"'(\[])|\n\s*\n|\n\s*(?=[-*|] )|\n(?=\s*\d+\. )")
_NAME_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True, slots=True)
class WordList:
    """Words to avoid, in lower case, each with what to write instead."""

    in_text: dict[str, str]
    """Avoided as a word of a text and as a part of a name."""
    as_names: dict[str, str]
    """Avoided as the whole name of a variable, parameter, attribute, function or class."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A place whose language needs a change."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def read_word_list(guide: str) -> WordList:
    """The words of the guide's tables under "Words to avoid" and "Names to avoid"."""
    return WordList(_read_table(guide, "Words to avoid"), _read_table(guide, "Names to avoid"))


def _read_table(guide: str, heading: str) -> dict[str, str]:
    """The rows below a heading: each word of the first cell, with the text of the second."""
    section = re.split(rf"^#+ {heading}$", guide, flags=re.MULTILINE)[1].split("\n#")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    return {word.strip(): instead.strip() for words, instead in rows[1:] for word in words.split(",") if word.strip()}


def check_python(path: str, source: str, words: WordList) -> Iterator[Problem]:
    """Problems in names, comments, docstrings and string literals of a Python module."""
    tree = ast.parse(source)
    docstring_lines: set[int] = set()
    for node in ast.walk(tree):
        for name in _find_defined_names(node):
            yield from _check_name(path, getattr(node, "lineno", 1), name, words)
        for text, line, last_line in _find_docstrings(node):
            docstring_lines.update(range(line, last_line + 1))
            yield from check_text(path, text, words, first_line=line)
            yield from check_sentences(path, text, first_line=line)
    for comment, line in _find_comments(source):
        yield from check_text(path, comment, words, first_line=line)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno not in docstring_lines:
            yield from check_text(path, node.value, words, first_line=node.lineno)


def check_text(path: str, text: str, words: WordList, *, first_line: int = 1) -> Iterator[Problem]:
    """Words to avoid in a text, outside of code."""
    without_code = _blank_out(_CODE_SPAN, text)
    for match in _WORD.finditer(without_code):
        instead = words.in_text.get(match[0].lower())
        if instead is not None:
            line = first_line + without_code.count("\n", 0, match.start())
            yield Problem(path, line, f"{match[0]!r}: write {instead}")


def check_sentences(path: str, text: str, *, first_line: int = 1) -> Iterator[Problem]:
    """Sentences of more than MAX_SENTENCE_WORDS words."""
    start = 0
    prose = _CODE_SPAN.sub(lambda code: "code" + "\n" * code[0].count("\n"), text)
    for end in [*(match.end() for match in _SENTENCE_END.finditer(prose)), len(prose)]:
        sentence = prose[start:end]
        count = len(_WORD.findall(sentence))
        if count > MAX_SENTENCE_WORDS:
            line = first_line + prose.count("\n", 0, start)
            yield Problem(path, line, f"a sentence of {count} words: {' '.join(sentence.split())[:60]!r} …")
        start = end


def check_document(path: str, text: str, words: WordList) -> Iterator[Problem]:
    """Words to avoid in a Markdown document, outside of code and of the tables that list them."""
    prose = _blank_out(_FENCED_CODE, text)
    if path == GUIDE.name:
        prose = re.sub(r"^\|.*\|$", "", prose, flags=re.MULTILINE)
    return check_text(path, prose, words)


def _check_name(path: str, line: int, name: str, words: WordList) -> Iterator[Problem]:
    """The problems of a name in code: it is a word that is no name, or has a part that the word list leaves out."""
    instead = words.as_names.get(name.lower().strip("_"))
    if instead is not None:
        yield Problem(path, line, f"{name!r} is no name: write {instead}")
    for part in _NAME_PART.findall(name):
        if (instead := words.in_text.get(part.lower())) is not None:
            yield Problem(path, line, f"{name!r} contains {part!r}: write {instead}")


def _find_defined_names(node: ast.AST) -> Iterator[str]:
    """The names that a node of the syntax tree defines."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
            yield name


def _find_docstrings(node: ast.AST) -> Iterator[tuple[str, int, int]]:
    """The strings that document a module, class, function or assignment, with their first and last line."""
    for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            value = statement.value.value
            if isinstance(value, str):
                yield value, statement.lineno, statement.end_lineno or statement.lineno


def _find_comments(source: str) -> Iterator[tuple[str, int]]:
    """Each comment of a Python file, with its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string, token.start[0]


def _blank_out(pattern: re.Pattern[str], text: str) -> str:
    """The text without the matches of a pattern, with as many lines."""
    return pattern.sub(lambda match: "\n" * match[0].count("\n"), text)


def list_checked_files(root: Path = ROOT) -> list[Path]:
    """The Python modules and Markdown documents that git knows, without recordings and generated files."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py", "*.md"]
    names = subprocess.run(listing, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    return [root / name for name in names if name and not name.startswith(_EXCLUDED) and (root / name).is_file()]


def find_problems(files: Iterable[Path], words: WordList, root: Path = ROOT) -> Iterator[Problem]:
    """Every problem in these files."""
    for file in files:
        path, text = str(file.relative_to(root)), file.read_text()
        yield from check_python(path, text, words) if file.suffix == ".py" else check_document(path, text, words)


def main() -> int:
    """Print every problem. Returns the exit code: 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m dev.check_language", description=__doc__)
    parser.add_argument("paths", nargs="*", help="check only files whose path begins with one of these")
    prefixes = tuple(parser.parse_args().paths)
    files = [file for file in list_checked_files() if str(file.relative_to(ROOT)).startswith(prefixes or "")]
    problems = list(find_problems(files, read_word_list(GUIDE.read_text())))
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems in {len(files)} files")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
