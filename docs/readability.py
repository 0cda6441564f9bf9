"""Prints the average length of a sentence in README.md and docs/**/*.md; exit code 1 where the total is over the limit.

Code blocks, tables, headings, HTML and link targets are left out. A list item is a sentence, or several. A span of
inline code counts as one word.
"""

import re
import sys
from pathlib import Path

LIMIT = 17.0
ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_NO_PROSE = re.compile(r"^ *(\||#|!!!|\?\?\?|:::|<|---|\*\*`[^`]+`\*\*$)")
_API_OPTIONS = re.compile(r"^::: .*\n(?:(?: {4}.*)?\n)*", re.MULTILINE)
_LIST_ITEM = re.compile(r"^ *(?:[-*+]|\d+\.) +")
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"`[^`]+`")
_SENTENCE_END = re.compile(r"(?<=[.!?])[)\"*]*\s+(?=[\"(*A-Z0-9`])")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|et al|vs|approx)\.")


def blocks(markdown: str) -> list[str]:
    """Paragraphs and list items, each on one line, without what is not prose."""
    for left_out in (_COMMENT, _FENCE, _API_OPTIONS):
        markdown = left_out.sub("\n", markdown)
    found: list[list[str]] = [[]]
    for line in markdown.splitlines():
        if not line.strip() or _NO_PROSE.match(line):
            found.append([])
        elif _LIST_ITEM.match(line):
            found.append([_LIST_ITEM.sub("", line)])
        else:
            found[-1].append(line.strip())
    return [" ".join(lines) for lines in found if lines]


def sentences(markdown: str) -> list[int]:
    """Words of each sentence."""
    lengths = []
    for block in blocks(markdown):
        text = _LINK.sub(r"\1", _IMAGE.sub("", _CODE.sub("Code", block)))
        text = _ABBREVIATION.sub(r"\1", text)
        lengths += [len(re.findall(r"\w[\w'’.,-]*", sentence)) for sentence in _SENTENCE_END.split(text)]
    return [length for length in lengths if length]


def main() -> int:
    """Print a line for each page and one for all; the exit code."""
    total: list[int] = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        lengths = sentences(page.read_text(encoding="utf-8"))
        total += lengths
        print(f"{_average(lengths):5.1f}  {len(lengths):4d} sentences  {page.relative_to(ROOT)}")
    print(f"{_average(total):5.1f}  {len(total):4d} sentences  in all (limit {LIMIT:.0f})")
    return int(_average(total) > LIMIT)


def _average(lengths: list[int]) -> float:
    return sum(lengths) / max(1, len(lengths))


if __name__ == "__main__":
    sys.exit(main())
