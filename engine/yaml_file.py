"""Reads YAML that a user wrote. Its size is bounded, and it is checked before values are built from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from engine.config_paths import expand_home
from engine.errors import InvalidInput

LARGEST_BYTES = 1_000_000
_DEEPEST = 32  # levels of lists and mappings in one another
_LONGEST_NUMBER = 400  # characters
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}
_NUMBER_TAGS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


def read_yaml(path: Path, what: str) -> Any:
    """The values in a UTF-8 file.

    Args:
        what: how an error begins, before the path: "CONFIG is".

    Raises:
        InvalidInput: the file cannot be read, is larger than 1 MB, or :func:`parse_yaml` refuses it.
    """
    return parse_yaml(_read_text(expand_home(path), what), f"{what} {str(path)!r}, which")


def parse_yaml(text: str, origin: str) -> Any:
    """The values in a text. Numbers are those of YAML 1.2 where YAML 1.1 reads text or surprises: 1e-3 is a number,
    16:9 is not.

    The text is checked whole before a value is built: aliases can make a few lines stand for gigabytes, and tags can
    name types of Python.

    Args:
        origin: what an error names, a path or an option.

    Raises:
        InvalidInput: it is not YAML, is larger than 1 MB, names a key twice, or holds an alias, a tag of another type
            than plain values, a number of more than 400 characters, or more than 32 levels.
    """
    if len(text) > LARGEST_BYTES or len(text.encode("utf-8", "surrogatepass")) > LARGEST_BYTES:
        raise InvalidInput(f"{origin} is larger than 1 MB, which no configuration needs: give a smaller one.")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InvalidInput(f"{origin} is not valid YAML{where} ({problem}): correct it.") from None
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError) as error:
        # e.g. a list as a key, !!bool maybe
        raise InvalidInput(f"{origin} cannot be read as YAML ({error}): correct it.") from None
    finally:
        if loader is not None:
            loader.dispose()


def _read_text(file: Path, what: str) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST_BYTES + 1)  # a device or a pipe may have no end
        if len(data) > LARGEST_BYTES:
            raise InvalidInput(f"{what} {str(file)!r}, which is larger than 1 MB: give a smaller one.")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise InvalidInput(f"{what} {str(file)!r}, which does not exist: check the path.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{what} {str(file)!r}, which is not text in UTF-8: save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput(f"{what} {str(file)!r}, which cannot be read ({reason}): check the path.") from None


class _Loader(yaml.SafeLoader):
    """YAML of plain values, in which each key is given once; dates, "=" and "<<" are text.

    Composing makes nodes, which are text; values are built from them afterwards.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML's own, which calls it for each node. Refuses the next one if it is an alias, or unusual, or too
        deep.

        Raises:
            MarkedYAMLError: with what is wrong, and where.
        """
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _problem(f"the alias *{event.anchor:.40} is not supported, write the value out", event.start_mark)
        if self.depth == _DEEPEST:
            raise _problem(f"there are more than {_DEEPEST} levels", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None:
            if node.tag in _NUMBER_TAGS and ":" in node.value:
                node.tag = "tag:yaml.org,2002:str"  # YAML 1.1 takes 16:9 for the number 969, in base 60
            _refuse_unusual(node)
        return node


# YAML 1.1 reads "1e-3" and "5e0" as text: its numbers need a point and a signed exponent
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
)


def _refuse_unusual(node: yaml.Node) -> None:
    if node.tag not in _PLAIN_TAGS:
        shown = str(node.tag).replace("tag:yaml.org,2002:", "!!", 1)
        raise _problem(f"the tag {shown:.60} is not supported, write a plain value", node.start_mark)
    if node.tag in _NUMBER_TAGS and len(node.value) > _LONGEST_NUMBER:
        raise _problem(f"a number has {len(node.value)} characters", node.start_mark)
    if isinstance(node, yaml.MappingNode):
        seen: set[Any] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is None:
                raise _problem("a key is a list or a mapping, write a word", key.start_mark)
            if name in seen:
                raise _problem(f"the key {name!r:.60} is given twice", node.start_mark)
            seen.add(name)


def _problem(problem: str, mark: yaml.Mark | None) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
