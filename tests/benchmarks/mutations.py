"""Mutations: every small fault that one edit can put into a module's source text.

A mutation replaces one expression or statement by a wrong one: another comparison or arithmetic operator, another
constant, `and` for `or`, a condition turned round, a bound off by one, two arguments swapped, a statement left out.
Docstrings, annotations, decorators and texts that are shown are left as they are. So is what changes no result: calls
that only show texts or give memory back, and the check of `zip` that its arguments are equally long.

In: the source text of a module. Out: a list of `Mutation`, in the order of the text.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {  # the bound moves by one, or the comparison is turned round
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
ARITHMETIC = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.LShift: ">>",
    ast.RShift: "<<",
}
OPPOSITES = {
    name: opposite
    for pair in (("min", "max"), ("minimum", "maximum"), ("floor", "ceil"), ("any", "all"), ("argmin", "argmax"))
    for name, opposite in (pair, pair[::-1])
}
COMMUTATIVE = {*OPPOSITES, "isclose", "allclose", "hypot", "add", "multiply", "gcd", "logaddexp", "array_equal"}
#: Calls of these change nothing that is computed: they show texts, or give memory back.
NO_RESULT = {"print", "warn", "debug", "info", "warning", "error", "release_pages"}
REMOVABLE = (ast.AugAssign, ast.Raise, ast.Break, ast.Continue, ast.Delete)


@dataclass(frozen=True)
class Mutation:
    """One edit: the bytes from ``start`` to ``stop`` of the source are replaced by ``text``."""

    kind: str
    start: int
    stop: int
    text: str
    lines: tuple[int, int]  # first and last line of the statement, or of the header of a compound one
    is_in_function: bool  # otherwise it takes effect when the module is imported

    def apply(self, source: bytes) -> bytes:
        """The source with the fault."""
        return source[: self.start] + self.text.encode() + source[self.stop :]


def find_mutations(source: bytes) -> list[Mutation]:
    """All mutations of a module, in the order of its text. Few of them can't be compiled or change nothing (`is_real`)."""
    found = _Finder(source).of_module(ast.parse(source))
    return sorted(found, key=lambda mutation: (mutation.start, mutation.stop, mutation.text))


def is_real(source: bytes, mutation: Mutation) -> bool:
    """True if the mutated source can be compiled and is other code."""
    try:
        mutated = ast.parse(mutation.apply(source))
    except SyntaxError:
        return False
    return ast.dump(mutated) != ast.dump(ast.parse(source))


class _Finder:
    """Walks over the statements of a module, and over the expressions of each."""

    def __init__(self, source: bytes):
        self._source = source
        lines = source.splitlines(keepends=True)
        self._offsets = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]

    def of_module(self, tree: ast.Module) -> Iterator[Mutation]:
        yield from self._of_body(tree.body, is_in_function=False)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self._offsets[node.lineno - 1] + node.col_offset
        return start, self._offsets[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.AST) -> str:
        start, stop = self._span(node)
        return self._source[start:stop].decode()

    def _of_body(self, body: list[ast.stmt], is_in_function: bool) -> Iterator[Mutation]:
        for statement in body:
            yield from self._of_statement(statement, is_in_function)

    def _of_statement(self, statement: ast.stmt, is_in_function: bool) -> Iterator[Mutation]:
        inner = [body for name in ("body", "orelse", "finalbody") if (body := getattr(statement, name, None))]
        inner += [handler.body for handler in getattr(statement, "handlers", ())]
        last = max(statement.lineno, inner[0][0].lineno - 1) if inner else statement.end_lineno
        lines = (statement.lineno, last)
        is_function = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef))
        is_type_check = isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
        if not is_type_check:
            for kind, node, text in self._edits(statement):
                yield Mutation(kind, *self._span(node), text, lines, is_in_function)
        for body in inner:
            yield from self._of_body(body, is_in_function or is_function)

    def _edits(self, statement: ast.stmt) -> Iterator[tuple[str, ast.AST, str]]:
        """Kind, place and new text of the edits of one statement, without the statements inside it."""
        if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.Assert)):
            return
        if isinstance(statement, ast.Expr):
            if isinstance(statement.value, ast.Constant) or self._has_no_result(statement.value):
                return
            yield "removed statement", statement, "pass"
        if isinstance(statement, REMOVABLE):
            yield "removed statement", statement, "pass"
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], (ast.Attribute, ast.Subscript)):
            yield "removed statement", statement, "pass"
        if isinstance(statement, ast.Raise):
            return  # what it says is a message
        if isinstance(statement, ast.AugAssign) and type(statement.op) in ARITHMETIC:
            operator = ARITHMETIC[type(statement.op)]
            yield "arithmetic", statement, f"{self._text(statement.target)} {operator}= {self._text(statement.value)}"
        if isinstance(statement, (ast.If, ast.While)) and not isinstance(statement.test, (ast.Compare, ast.BoolOp)):
            yield "boolean", statement.test, f"not ({self._text(statement.test)})"
        for node in self._expressions(statement):
            for kind, text in self._wrong(node):
                yield kind, node, text

    def _expressions(self, node: ast.AST) -> Iterator[ast.expr]:
        """Expressions below a node, without annotations, decorators, texts and the statements inside it."""
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or isinstance(child, (ast.stmt, ast.excepthandler, ast.JoinedStr)):
                    continue
                if self._has_no_result(child) or (isinstance(child, ast.keyword) and child.arg == "strict"):
                    continue
                if isinstance(child, (ast.expr, ast.Slice)):
                    yield child
                yield from self._expressions(child)

    @staticmethod
    def _name_called(node: ast.AST) -> str:
        if not isinstance(node, ast.Call):
            return ""
        return getattr(node.func, "attr", getattr(node.func, "id", ""))

    def _has_no_result(self, node: ast.AST) -> bool:
        return self._name_called(node) in NO_RESULT

    def _wrong(self, node: ast.expr | ast.Slice) -> Iterator[tuple[str, str]]:
        """Kind and text of the wrong expressions that may stand for a right one."""
        match node:
            case ast.Compare():
                yield from self._wrong_comparisons(node)
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                operator = ARITHMETIC[type(node.op)]
                yield "arithmetic", f"({self._operand(node.left)} {operator} {self._operand(node.right)})"
            case ast.BoolOp():
                operator = " or " if isinstance(node.op, ast.And) else " and "
                yield "boolean", f"({operator.join(self._operand(value) for value in node.values)})"
            case ast.UnaryOp() if not isinstance(node.op, ast.UAdd):
                yield "boolean" if isinstance(node.op, ast.Not) else "arithmetic", f"({self._text(node.operand)})"
            case ast.IfExp():
                test = f"not ({self._text(node.test)})"
                yield "boolean", f"({self._operand(node.body)} if {test} else {self._operand(node.orelse)})"
            case ast.Constant():
                yield from self._wrong_constants(node.value)
            case ast.Slice():
                yield from self._wrong_slices(node)
            case ast.Call():
                yield from self._wrong_calls(node)

    def _operand(self, node: ast.expr) -> str:
        """The text of an operand. Parentheses in the source are not part of it, so it gets its own."""
        is_whole = isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Constant))
        return self._text(node) if is_whole else f"({self._text(node)})"

    def _wrong_comparisons(self, node: ast.Compare) -> Iterator[tuple[str, str]]:
        sides = [self._operand(side) for side in (node.left, *node.comparators)]
        names = [COMPARISONS[type(op)] for op in node.ops]
        right = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
        right |= {ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"}
        for i, wrong in enumerate(names):
            for other in wrong:
                operators = [right[type(op)] for op in node.ops]
                operators[i] = other
                rest = " ".join(f"{operator} {side}" for operator, side in zip(operators, sides[1:], strict=True))
                yield "comparison", f"({sides[0]} {rest})"

    @staticmethod
    def _wrong_constants(value: object) -> Iterator[tuple[str, str]]:
        if isinstance(value, bool):
            yield "boolean", str(not value)
        elif isinstance(value, int):
            yield "constant", str(value + 1)
            yield "constant", f"({value - 1})"
        elif isinstance(value, float):
            yield "constant", str(2 * value if value else 1.0)

    def _wrong_slices(self, node: ast.Slice) -> Iterator[tuple[str, str]]:
        for bound in ("lower", "upper"):
            if isinstance(getattr(node, bound), (ast.Constant, type(None))):
                continue  # a constant is changed as such
            bounds = {name: self._text(each) for name in ("lower", "upper", "step") if (each := getattr(node, name))}
            bounds[bound] = f"({bounds[bound]}) + 1"
            step = f":{bounds['step']}" if "step" in bounds else ""
            yield "off by one", f"{bounds.get('lower', '')}:{bounds.get('upper', '')}{step}"

    def _wrong_calls(self, node: ast.Call) -> Iterator[tuple[str, str]]:
        called, name = self._text(node.func), self._name_called(node)
        given = [self._text(argument) for argument in (*node.args, *node.keywords)]
        if name in OPPOSITES:
            yield "opposite function", f"{called.removesuffix(name)}{OPPOSITES[name]}({', '.join(given)})"
        if name == "range":
            given[min(1, len(given) - 1)] += " + 1"
            yield "off by one", f"range({', '.join(given)})"
        elif name not in COMMUTATIVE and len(node.args) > 1:
            if any(isinstance(argument, ast.Starred) for argument in node.args[:2]):
                return
            yield "swapped arguments", f"{called}({', '.join([given[1], given[0], *given[2:]])})"
