"""Reading and writing prototxt, with errors and layers located by file and line."""

from __future__ import annotations

import re
from typing import TypeVar

from google.protobuf import descriptor_pool, text_format
from google.protobuf.message import Message

from jaffe.netdef import jaffe_pb2
from jaffe.netdef.errors import SpecError, suggest

M = TypeVar("M", bound=Message)

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"? | '(?:\\.|[^'\\\n])*'?)  # one without an end too: no second search
      | (?P<newline>\n)
      | (?P<open>[{<]) | (?P<close>[}>]) | (?P<list>[\[\]])
      | (?P<word>[A-Za-z_]\w*)""",
    re.VERBOSE,
)

_PLACEHOLDER = re.compile(r"\$(\{[^}\s]*\}|\([^)\s]*\)|#[^#\s]*#\$|\w*)")  # ${NAME}, $(NAME), $#NAME#$, $NAME
_FIELD = re.compile(r"\s*[:{<]")  # what follows the name of a field
_MOST_LISTED = 12  # names in a message


def parse_text(text: str, message_class: type[M], filename: str = "<text>") -> M:
    """Parse prototxt.

    Raises:
        SpecError: naming file, line and column, and the nearest known name for a misspelt one.
    """
    try:
        return text_format.Parse(text, message_class())
    except text_format.ParseError as error:
        line, column = error.GetLine(), error.GetColumn()
        problem = re.sub(r"^\d+:\d+ ?: ?", "", str(error)).rstrip(".")
        problem = re.sub(r"^'.*': ", "", problem)  # protobuf repeats the whole line
        problem = problem if len(problem) <= 200 else problem[:200] + "..."
        place = filename if line is None else f"{filename}:{line}:{column}"
        blank = _PLACEHOLDER.search(text.split("\n")[line - 1]) if line is not None and "$" in problem else None
        if blank:
            problem = f"{blank.group()} is a placeholder that some script fills in; put a value in its place"
        raise SpecError(_explain(problem), location=place) from None
    except (UnicodeError, RecursionError, ValueError) as error:
        raise SpecError(f"is not prototxt: {error}", location=filename) from None


def format_text(message: Message) -> str:
    """The message as prototxt, in schema order; reading it back gives an equal message."""
    return text_format.MessageToString(message)


def layer_lines(text: str, field: str = "layer") -> list[int]:
    """The 1-based line on which each top-level ``layer { ... }`` block of a prototxt begins.

    protobuf keeps no positions of what it has parsed, so this walks over the tokens once; blocks come
    out in the order in which the parser puts them into the repeated field.
    """
    lines: list[int] = []
    line, depth, word, word_line, listed = 1, 0, "", 1, False
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "newline":
            line += 1
        elif kind == "word":
            word, word_line = token.group(), line
        elif kind == "list" and depth == 0:  # layer [ { ... }, { ... } ]
            listed = token.group() == "[" and word == field
        elif kind == "open":
            if depth == 0 and (listed or word == field):
                lines.append(line if listed else word_line)
            depth += 1
        elif kind == "close":
            depth -= 1
    return lines


def top_level_fields(text: str) -> list[str]:
    """The names of the fields that stand outside of all braces, in order: what tells a net from a solver.

    >>> top_level_fields('name: "n" layer { type: "ReLU" }')
    ['name', 'layer']
    """
    names, depth = [], 0
    for token in _TOKEN.finditer(text):
        depth += {"open": 1, "close": -1}.get(token.lastgroup or "", 0)
        if token.lastgroup == "word" and depth == 0 and _FIELD.match(text, token.end()):
            names.append(token.group())
    return names


def _explain(problem: str) -> str:
    """protobuf's own message, in plain words and with the nearest known name."""
    found = re.match(r'Message type "(\S+)" has no field named "(\w+)"', problem)
    if found:
        message, name = found.groups()
        fields = descriptor_pool.Default().FindMessageTypeByName(message).fields_by_name
        short = message.removeprefix("jaffe.")
        return f"{short} has no field {name!r}{suggest(name, fields)}"
    found = re.match(r'Enum type "(\S+)" has no value named (\S+)', problem)
    if found:
        enum, name = found.groups()
        values = descriptor_pool.Default().FindEnumTypeByName(enum).values_by_name
        short = enum.removeprefix("jaffe.")
        if name[0] in "\"'":
            near = suggest(name.strip("\"'"), values)
            return f"expected a value of {short}, without quotes; found {name}{near}"
        known = f"; known values: {', '.join(values)}" if len(values) <= _MOST_LISTED else ""
        return f"{short} has no value {name!r}{suggest(name, values) or known}"
    found = re.match(r"Expected string but found: '(\w+)'", problem)
    if found:
        return f"expected a text in quotes; found {found.group(1)}"
    return problem.replace("jaffe.", "")


def read_solver(text: str, filename: str = "<text>") -> jaffe_pb2.SolverParameter:
    """Parse a solver prototxt. Raises SpecError as ``parse_text`` does."""
    return parse_text(text, jaffe_pb2.SolverParameter, filename)
