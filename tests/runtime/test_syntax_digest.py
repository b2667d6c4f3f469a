"""A digest of source knows what matters: what the code does, and no way of writing it; in every version of Python."""

from __future__ import annotations

import ast
import io
import itertools
import keyword
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import osgap
from osgap.runtime.code import syntax_digest

CORPUS = Path(__file__).with_name("every_syntax.txt")
SOURCES = sorted(p for p in Path(osgap.__file__).parent.rglob("*.py") if p.name != "__init__.py")


def test_all_versions_of_python_agree() -> None:
    """Found alike by 3.11.7, 3.12.1, 3.13.0 and 3.14.2; others find it here."""
    assert syntax_digest(CORPUS.read_bytes()) == "da497a44b6a523ea"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1", "x  =  1  # why"),
        ("x = 1000", "x = 0x3e8"),
        ("x = 1000", "x = 1_000"),
        ("x = 'a'", 'x = """a"""'),
        ("x = 'ab'", "x = ('a'\n     u'b')"),
        ("x = f(a, b)", "x = f(\n    a,\n    b,\n)"),
        ("x = a, b", "(x) = (a, b)"),
        ("if a: b", "if (a):\n\n    b"),
        ("a; b", "a\nb"),
        ("with a as b, c: d", "with (a as b, c):\n    d"),
        ("'''Text.'''\nx = 1", "x = 1"),
        ("x: int = 1", "x: int = 1\n'''What it is.'''"),
        ("def f(): return 1", "def f():\n    '''Text.'''\n    return 1"),
        ("def f(): pass", "def f():\n    '''Text.'''"),
        ("def f(): ...", "def f():\n    '''Text.'''"),
        ("class A:\n    x: int", "class A:\n    '''Text.'''\n\n    x: int\n    '''More.'''"),
        ("class A: pass", "class A:\n    '''Text.'''"),
        ("async def f(): await a", "async def f():\n    'Text.'\n    await a"),
        ("if a:\n    b", "if a:\n    b\n    pass"),
        ("x = f'{a}b'", "x = f'{a}' 'b'"),
        ("x = f'{a}b'", "x = f'{ a }' f'' f'b'"),
        ("x = f'{a}'", "x = f'{a:}'"),
        ("x = 'ä'", "x = '\\xe4'"),
    ],
)
def test_ways_of_writing_make_no_difference(before: str, after: str) -> None:
    assert syntax_digest(before) == syntax_digest(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 1", "x = -1"),
        ("x = 1", "x = '1'"),
        ("x = 'a'", "x = b'a'"),
        ("x = 'a'", "x = f'a'"),
        ("x = None", "x = ..."),
        ("x = 0.1", "x = 0.10000000000000002"),
        ("x = 1e999", "x = -1e999"),
        ("x = 1j", "x = 1"),
        ("x = 'ab'", "x = 'a', 'b'"),
        ("x = '\\ud800'", "x = '\\ud801'"),
        ("x = 1", "x: int = 1"),
        ("x: int = 1", "x: float = 1"),
        ("x: int", "x: int = None"),
        ("def f(a=1): a", "def f(a=2): a"),
        ("def f(a): a", "def f(a=None): a"),
        ("def f(a, b): a", "def f(a, *, b): a"),
        ("def f(a, b): a", "def f(a, /, b): a"),
        ("def f(*, a, b=1): a", "def f(*, a=1, b): a"),
        ("def f(a): a", "def f(a) -> None: a"),
        ("def f(): return", "def f(): return None"),
        ("def f(): a", "@cached\ndef f(): a"),
        ("@a\n@b\ndef f(): c", "@b\n@a\ndef f(): c"),
        ("def f(): a", "async def f(): a"),
        ("class A: x", "class A(B): x"),
        ("class A(B): x", "class A(metaclass=B): x"),
        ("import a", "import b"),
        ("import a.b", "from a import b"),
        ("from a import b", "from .a import b"),
        ("from . import b", "from .. import b"),
        ("import a as b", "import a"),
        ("from __future__ import annotations", ""),
        ("a + b", "a - b"),
        ("a + b", "b + a"),
        ("a < b", "a <= b"),
        ("a[1:]", "a[:1]"),
        ("a[b, c]", "a[b][c]"),
        ("f(a)", "f(*a)"),
        ("f(**a)", "f(a=a)"),
        ("{**a}", "{None: a}"),
        ("{**a, b: c}", "{b: c, **a}"),
        ("a and b", "a or b"),
        ("a; b", "b; a"),
        ("if a: b", "if a:\n    pass\nelse: b"),
        ("if a: b\nelse: c", "if a: b\nc"),
        ("for i in a: b\nelse: c", "for i in a:\n    b\n    c"),
        ("try: a\nexcept B: c", "try: a\nexcept* B: c"),
        ("try: a\nexcept B: c\nelse: d", "try: a\nexcept B: c\nfinally: d"),
        ("[a for b in c if d]", "[a for b in c if not d]"),
        ("[a for b in c]", "{a for b in c}"),
        ("lambda a: a", "lambda *a: a"),
        ("match a:\n    case None: b", "match a:\n    case True: b"),
        ("match a:\n    case b: c", "match a:\n    case _: c"),
        ("match a:\n    case [b]: c", "match a:\n    case [*b]: c"),
        ("f'{a}'", "f'{a!r}'"),
        ("f'{a}'", "f'{a=}'"),
        ("f'{a}'", "f'{a:b}'"),
        ("f'{a:{b}c}'", "f'{a:{b}}c'"),
        ("f'{a}b'", "f'b{a}'"),
        ("f'''{a}'''", "a"),
        ("global_ = 1", "globals_ = 1"),
        ("def f():\n    global a\n    a = 1", "def f():\n    a = 1"),
        ("x = '''Text.'''", "x = '''Other text.'''"),
        ("f('''Text.''')", "f('''Other text.''')"),
        ("def f(): return '''Text.'''", "def f(): return '''Other text.'''"),
    ],
)
def test_what_code_does_makes_a_difference(before: str, after: str) -> None:
    assert syntax_digest(before) != syntax_digest(after)


@pytest.mark.parametrize("path", [CORPUS, *SOURCES[::6]], ids=lambda path: path.name)
def test_printing_a_module_anew_makes_no_difference(path: Path) -> None:
    source = path.read_text()
    printed = ast.unparse(ast.parse(source))
    assert printed != source.rstrip()
    assert syntax_digest(printed) == syntax_digest(source)


@pytest.mark.parametrize("path", SOURCES[::20], ids=lambda path: path.name)
def test_comments_and_empty_lines_make_no_difference(path: Path) -> None:
    source = path.read_text()
    lines = source.splitlines()
    ends = {token.end[0] for token in tokens(source) if token.type == tokenize.NEWLINE}
    for number in sorted(ends, reverse=True):
        lines[number - 1 : number] = [lines[number - 1] + "  # edited", "", "# edited"]
    assert syntax_digest("\n".join(lines)) == syntax_digest(source)


@pytest.mark.parametrize("path", [CORPUS, Path(osgap.__file__).parent / "head" / "texels.py"], ids=lambda p: p.name)
def test_every_number_text_name_and_operator_makes_a_difference(path: Path) -> None:
    changed = dict.fromkeys((tokenize.NUMBER, tokenize.STRING, tokenize.NAME, tokenize.OP), 0)
    for source in statements(path.read_text()):
        digest = syntax_digest(source)
        documents = set(without_effect(source))
        for token, edited in edits(source):
            try:
                found = syntax_digest(edited)
            except SyntaxError:
                continue
            document = token.type == tokenize.STRING and any(first <= token.start < last for first, last in documents)
            assert (found == digest) == document, token
            changed[token.type] += not document
    assert all(changed.values())


def statements(source: str) -> Iterator[str]:
    """Whole lines, as few as make a statement."""
    lines = source.splitlines(keepends=True)
    ends: list[int] = []
    for node in ast.parse(source).body:
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        if ends and first <= ends[-1]:
            ends.pop()
        assert node.end_lineno is not None
        ends.append(node.end_lineno)
    for first, last in itertools.pairwise([0, *ends]):
        yield "".join(lines[first:last])


def edits(source: str) -> Iterator[tuple[tokenize.TokenInfo, str]]:
    """A token, and the source with another in its place."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    operators = {
        "+": "-",
        "-": "+",
        "*": "/",
        "/": "*",
        "<": "<=",
        "==": "!=",
        "&": "|",
        "+=": "-=",
        ">": ">=",
        "%": "//",
    }
    for token in tokens(source):
        if token.type == tokenize.NUMBER:
            text = "8" if token.string == "7" else "7"
        elif token.type == tokenize.STRING:
            text = f"{token.string} {'b' if 'b' in token.string[:2].lower() else ''}'x'"
        elif token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            text = f"{token.string}_x"
        elif token.type == tokenize.OP and token.string in operators:
            text = operators[token.string]
        else:
            continue
        first, last = (starts[line - 1] + column for line, column in (token.start, token.end))
        yield token, source[:first] + text + source[last:]


def tokens(source: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(source).readline))


def without_effect(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where texts stand that are statements. Columns are those of `ast`: bytes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            yield (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
