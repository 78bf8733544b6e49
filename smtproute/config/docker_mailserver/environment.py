"""Environment: the file of variables that the container gets, such as `mailserver.env`."""

from __future__ import annotations

import re
from pathlib import Path

from smtproute.config import files
from smtproute.config.docker_mailserver import quoting
from smtproute.config.docker_mailserver.paths import Paths
from smtproute.config.tables import decoded
from smtproute.core.docker_mailserver import DEFAULTS, Environment, Line
from smtproute.core.finding import Finding, warning

__all__ = ["read_environment"]

_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
_QUOTED = re.compile(r"""(?P<quote>['"])(?P<value>.*)(?P=quote)(?:\s+#.*)?""")
_COMMENT = re.compile(r"\s#.*")


def read_environment(shown: str, octets: bytes, paths: Paths) -> tuple[Environment, tuple[Finding, ...]]:
    """The variables, the last line of each. `docker run --env-file` and the env_file of docker compose differ in
    quotes and comments: here they go, as with compose, and a finding says so.

    `X__FILE` stands for the file that holds X, unless X is written too (docker-mailserver).
    """
    variables: dict[str, Line] = {}
    findings: list[Finding] = []
    for number, raw in enumerate(decoded(octets).removeprefix("\ufeff").split("\n"), 1):
        text, rule = raw.strip(), f"{shown}:{number}"
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            name = quoting.head(text)
            named = re.fullmatch(r"[A-Z][A-Z0-9_]*|export", name) is not None and name != text
            what = (f'"{name}..." sets' if named else "This sets") + " no variable here: the line is ignored."
            findings.append(warning("environment-line", rule, what, "NAME=value"))
            continue
        name, written = match.groups()
        value = _plain(written)
        if value != written:
            what = (
                "docker compose drops quotes and what follows a #; docker run --env-file makes them part of the value."
                " Here they are dropped."
            )
            findings.append(warning("environment-quotes", rule, what, f"{name}={_shown(name, value)}"))
        if name in variables:
            what = f"{name} is set already ({variables[name].rule}): this line counts."
            findings.append(warning("duplicate-key", rule, what))
        variables[name] = Line(rule, name, value)
    for name in [name for name in variables if name.endswith("__FILE")]:
        findings += _from_file(variables, name, paths)
    return Environment(variables, written=True), tuple(findings)


def _plain(written: str) -> str:
    quoted = _QUOTED.fullmatch(written)
    if quoted is not None and quoted["quote"] not in quoted["value"]:
        return quoted["value"]
    return _COMMENT.sub("", written)


def _shown(name: str, value: str) -> str:
    """What findings show of a value: nothing that may be a secret, so nothing where it is not known what it is."""
    known = name in DEFAULTS and name not in ("RELAY_USER", "RELAY_PASSWORD", "SRS_SECRET")
    return (quoting.nexthop(value) if name.endswith("RELAY_HOST") else value) if known else "..."


def _from_file(variables: dict[str, Line], name: str, paths: Paths) -> tuple[Finding, ...]:
    """Sets X from the file that `X__FILE` names, or says why it stays unset."""
    line, target = variables[name], name.removesuffix("__FILE")
    if target in variables:
        what = f"{target} is set too ({variables[target].rule}): docker-mailserver does not read the file."
        return (warning("environment-file", line.rule, what),)
    if not line.value.startswith("/"):
        what = f"It names no file, with a path that begins with /: {target} stays unset."
        return (warning("environment-file", line.rule, what, f"{name}=/run/secrets/{target.lower()}"),)
    path: Path | None = paths.host(line.value)
    if path is None:
        what = f"{line.value} is in no folder that is known here: {target} stays unset."
        instead = f'paths = {{ "{line.value}" = "..." }} under [docker_mailserver]'
        return (warning("environment-file", line.rule, what, instead),)
    try:
        octets = files.read(path)
    except OSError as error:
        why = (error.strerror or "error").lower()
        return (warning("environment-file", line.rule, f"{path} cannot be read: {why}. {target} stays unset."),)
    variables[target] = Line(line.rule, target, decoded(octets).rstrip("\n"))
    return ()
