"""What the files of a Rust workspace import of each other, read from their sources; for ci/circles.

No compiler is asked: what macros make of their input is not seen.
"""

import collections
import re
import tomllib

ROOMS = ("src", "drivers", "ffi")
TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<block>/\*)
    |(?P<raw>(?:b|c)?r(?P<hashes>\#*)"(?s:.*?)"(?P=hashes))
    |(?P<text>(?:b|c)?"(?:[^"\\]|\\(?s:.))*")
    |(?P<char>b?'(?:[^'\\\n]|\\(?:x..|u\{[^}]*\}|.))')
    |(?P<lifetime>'\w+)
    |(?P<word>(?:r\#)?[^\W\d]\w*)
    |(?P<number>\d\w*)
    |(?P<mark>::|=>|->|.)""",
    re.VERBOSE,
)
OPEN, CLOSE = {"(": ")", "[": "]", "{": "}"}, {")", "]", "}"}
NAMED = {"fn", "struct", "enum", "union", "trait", "type", "const", "static"}
BEFORE_NAMED = {"unsafe", "async", "extern", "default", "safe", "auto"}
ENDED_BY_SEMICOLON = {"type", "const", "static", "use"}


class Token(str):
    """A word or mark of a source, with its line and whether it is a word."""

    def __new__(cls, text, line, word=False):
        token = super().__new__(cls, text)
        token.line, token.word = line, word
        return token


def tokens_of(source):
    """The words and marks of a Rust source: no comments; of a string only that there is one."""
    found, at, line = [], 0, 1
    while at < len(source):
        match = TOKEN.match(source, at)
        kind, text, end = match.lastgroup, match.group(), match.end()
        if kind == "hashes":
            kind = "raw"
        if kind == "block":
            end = end_of_comment(source, at)
        elif kind == "word":
            found.append(Token(text.removeprefix("r#"), line, word=True))
        elif kind in ("text", "raw"):
            found.append(Token(text if kind == "text" else '""', line))
        elif kind not in ("space", "lifetime"):
            found.append(Token("0" if kind in ("char", "number") else text, line))
        line += source.count("\n", at, end)
        at = end
    return found


def end_of_comment(source, at):
    """Where a block comment ends that begins at AT; they nest."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(source, at):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    return len(source)


def end_of_group(tokens, at):
    """The place after the bracket that closes the one at AT."""
    depth = 0
    for place in range(at, len(tokens)):
        if tokens[place] in OPEN:
            depth += 1
        elif tokens[place] in CLOSE:
            depth -= 1
            if depth == 0:
                return place + 1
    return len(tokens)


def end_of_item(tokens, at, only_semicolon):
    """The place after an item that begins at AT: its `;`, or its block."""
    while at < len(tokens):
        if tokens[at] == ";":
            return at + 1
        if tokens[at] in OPEN:
            block = tokens[at] == "{"
            at = end_of_group(tokens, at)
            if block and not only_semicolon:
                return at
        else:
            at += 1
    return at


def use_tree(tokens, at, prefix=()):
    """The leaves of a `use` from AT on, as (path, name here, token), and the place after it."""
    path, leaves = list(prefix), []
    if tokens[at] == "::":
        # Of another crate.
        path.append("")
        at += 1
    last = tokens[at]
    while at < len(tokens):
        token = tokens[at]
        if token == "{":
            at += 1
            while tokens[at] != "}":
                more, at = use_tree(tokens, at, tuple(path))
                leaves += more
                at += tokens[at] == ","
            return leaves, at + 1
        if token == "*":
            return [(tuple(path), "*", token)], at + 1
        if token == "as":
            return [(leaf(path), tokens[at + 1], last)], at + 2
        if token in (";", ",", "}"):
            break
        if token != "::":
            path.append(token)
            last = token
        at += 1
    whole = leaf(path)
    return ([(whole, whole[-1], last)] if whole else []), at


def leaf(path):
    """The path that `a::b::self` in braces stands for."""
    return tuple(path[:-1] if len(path) > 1 and path[-1] == "self" else path)


class Module:
    """A module: where it is written, what it defines, what it imports, what its text names."""

    def __init__(self, file, parent=None):
        self.file, self.parent = file, parent
        self.children = collections.defaultdict(list)
        self.defined = set()
        #: Name here: [(path, whether it is handed on)]; "*" for all of a module.
        self.imported = collections.defaultdict(list)
        self.uses = []
        self.body = []

    def root(self):
        return self if self.parent is None else self.parent.root()


class Crate:
    """All modules of one crate, read from its root file."""

    def __init__(self, home, root):
        self.home, self.modules = home, []
        self.root = self.read(root, root.parent, None)

    def read(self, file, directory, parent):
        module = Module(file.relative_to(self.home).as_posix(), parent)
        self.modules.append(module)
        self.items(tokens_of(file.read_text(encoding="utf-8")), module, file, directory)
        return module

    def items(self, tokens, module, file, directory, inline=False):
        at = 0
        while at < len(tokens):
            attributes, at = self.attributes(tokens, at)
            if at >= len(tokens):
                return
            start, public = at, tokens[at] == "pub"
            if public:
                at += 1
                if at < len(tokens) and tokens[at] == "(":
                    at = end_of_group(tokens, at)
            while at + 1 < len(tokens) and (
                tokens[at] in BEFORE_NAMED
                or tokens[at].startswith('"')
                or (tokens[at] == "const" and tokens[at + 1] in ("fn", "unsafe", "async", "extern"))
            ):
                at += 1
            if at >= len(tokens):
                return
            word = tokens[at]
            end = end_of_item(tokens, at, word in ENDED_BY_SEMICOLON)
            # A macro with ( ) or [ ] ends with its `;`, any other item with its block or `;`.
            if for_tests(attributes):
                at = end
                continue
            for attribute in attributes:
                module.body += attribute
            if word == "mod":
                self.module(tokens[at:end], attributes, module, file, directory, inline)
            elif word == "use":
                leaves, _ = use_tree(tokens, at + 1)
                for path, name, token in leaves:
                    module.imported[str(name)].append((path, public))
                    module.uses.append((path, str(name), token, public))
            else:
                self.define(tokens[at:end], word, module)
                module.body += tokens[start:end]
            at = max(end, at + 1)

    def attributes(self, tokens, at):
        found = []
        while at + 1 < len(tokens) and tokens[at] == "#" and tokens[at + 1] in ("[", "!"):
            open_ = at + 1 + (tokens[at + 1] == "!")
            end = end_of_group(tokens, open_)
            found.append(tokens[open_ + 1 : end - 1])
            at = end
        return found, at

    def define(self, item, word, module):
        """The names that an item adds to its module."""
        if word in NAMED:
            names = [token for token in item[1:3] if token.word and token != "mut"]
            module.defined.update(names[:1])
        elif word == "macro_rules":
            module.defined.update(item[2:3])
        elif word == "{" or (len(item) > 1 and item[1] == "!"):
            # A block of `extern`, or a macro that may define what it is given.
            for keyword, name in zip(item, item[1:]):
                if keyword in NAMED and name.word:
                    module.defined.add(name)

    def module(self, item, attributes, parent, file, directory, inline):
        name = str(item[1])
        paths = [str(a[2]).strip('"') for a in attributes if len(a) == 3 and a[:2] == ["path", "="]]
        if len(item) > 2 and item[2] == "{":
            child = Module(parent.file, parent)
            self.modules.append(child)
            parent.children[name].append(child)
            below = directory / (paths[0] if paths else name)
            self.items(item[3:-1], child, file, below, inline=True)
            return
        if paths:
            place = (directory if inline else file.parent) / paths[0]
            below = place.parent
        else:
            place, below = directory / f"{name}.rs", directory / name
            if not place.is_file():
                place = directory / name / "mod.rs"
        if not place.is_file():
            raise SystemExit(f"ci/circles: {parent.file}: there is no file for `mod {name}`")
        parent.children[name].append(self.read(place, below, parent))

    # Names

    def find(self, module, path, seen=frozenset(), outside=None):
        """What a path in a module leads to: modules, and (file, name) of what is defined."""
        if not path or (id(module), path) in seen:
            return set()
        seen |= {(id(module), path)}
        first, rest = path[0], path[1:]
        if first == "crate":
            return self.inside(module.root(), rest, seen)
        if first == "self":
            return self.inside(module, rest, seen)
        if first == "super":
            above = module.parent
            if above is None:
                return set()
            if rest[:1] == ("super",):
                return self.find(above, rest, seen)
            return self.inside(above, rest, seen)
        return self.inside(module, path, seen)

    def inside(self, module, path, seen):
        if not path:
            return {module}
        first, rest = str(path[0]), path[1:]
        found = set()
        for child in module.children.get(first, ()):
            found |= self.inside(child, rest, seen)
        if first in module.defined and not (found and rest):
            found.add((module.file, first))
        if found:
            return found
        for target, _ in module.imported.get(first, ()):
            for end in self.find(module, target, seen):
                found |= self.inside(end, rest, seen) if isinstance(end, Module) else {end}
        if found or first == "*":
            return found
        for target, _ in module.imported.get("*", ()):
            for end in self.find(module, target, seen):
                if isinstance(end, Module) and (id(end), path) not in seen:
                    found |= self.inside(end, path, seen | {(id(end), path)})
        return found

    # Imports

    def imports(self):
        """(importing file, imported file, name, line)."""
        for module in self.modules:
            paths = list(paths_in(module.body))
            heads = {str(path[0]) for path, _ in paths if len(path) > 1}
            words = {str(path[0]) for path, _ in paths}
            for path, name, token, public in module.uses:
                yield from self.imported(module, path, name, token, public, heads, words)
            for path, token in paths:
                if len(path) > 1:
                    for end in self.find(module, path):
                        yield from edge(module, end, path[-1], token.line)

    def imported(self, module, path, name, token, public, heads, words):
        for end in self.find(module, path):
            if name == "*" and isinstance(end, Module):
                # Of all names those that are used here, unless they are handed on only.
                for word in words - module.defined - set(module.imported) - set(module.children):
                    for one in self.inside(end, (word,), frozenset()):
                        if not isinstance(one, Module):
                            yield from edge(module, one, word, token.line)
            elif public and name not in words:
                continue
            elif isinstance(end, Module) and name in heads:
                # The paths that begin with it say what is meant.
                continue
            else:
                yield from edge(module, end, path[-1], token.line)


def for_tests(attributes):
    return any(
        a == ["test"]
        or a[-2:] == ["::", "test"]
        or a[:3] == ["cfg", "(", "test"]
        or (a[:4] == ["cfg", "(", "all", "("] and "test" in a and "not" not in a and "any" not in a)
        for a in (list(map(str, attribute)) for attribute in attributes)
    )


def paths_in(body):
    """Every path in a module's text, as (segments, first token); a bare word is a path of one."""
    at = 0
    while at < len(body):
        token = body[at]
        if (
            token == "use"
            and at + 1 < len(body)
            and (body[at + 1].word or body[at + 1] in ("{", "::"))
        ):
            # Inside a block.
            leaves, at = use_tree(body, at + 1)
            yield from ((path, token) for path, _, token in leaves)
            continue
        if not token.word or (at and body[at - 1] in (".", "::")):
            at += 1
            continue
        path, after = [token], at + 1
        while after + 1 < len(body) and body[after] == "::" and body[after + 1].word:
            path.append(body[after + 1])
            after += 2
        field = after < len(body) and body[after] == ":" and len(path) == 1
        declared = at and body[at - 1] in NAMED
        if not (field or declared):
            yield tuple(path), token
        at = after


def edge(module, end, name, line):
    file = end.file if isinstance(end, Module) else end[0]
    if file != module.file:
        yield module.file, file, str(name if isinstance(end, Module) else end[1]), line


def crate_roots(home):
    """The root files of the workspace's crates in the rooms."""
    workspace = tomllib.loads((home / "Cargo.toml").read_text(encoding="utf-8"))
    for member in workspace.get("workspace", {}).get("members", ["."]):
        directory = home / member
        cargo = tomllib.loads((directory / "Cargo.toml").read_text(encoding="utf-8"))
        wanted = [cargo.get("lib", {}).get("path", "src/lib.rs")]
        wanted += [one.get("path", "src/main.rs") for one in cargo.get("bin", [{}])]
        for root in (directory / path for path in wanted):
            inside = root.resolve().relative_to(home.resolve())
            if root.is_file() and inside.parts[0] in ROOMS:
                yield home / inside


def rust_imports(home):
    reached = set()
    for root in dict.fromkeys(crate_roots(home)):
        crate = Crate(home, root)
        reached.update(module.file for module in crate.modules)
        yield from crate.imports()
    if not reached:
        raise SystemExit(f"ci/circles: no crate in {home}")
