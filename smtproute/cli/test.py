"""`smtproute test`: plays scenario files, writes one from what a relay did, accepts what has become of another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from smtproute.cli.configuration import CONFIG, OPTION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smtproute.cli.ending import Ending
    from smtproute.testing.scenarios.record import Recorded
    from smtproute.testing.scenarios.scenario import Scenario
    from smtproute.testing.scenarios.update import Change

__all__ = ["command"]


def command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Scenario files, and folders of them; with --record queue ids.",
            show_default=False,
        ),
    ] = None,
    expression: Annotated[
        str | None,
        typer.Option(
            "-k",
            metavar="EXPRESSION",
            help="Only those whose path or title has these words: with and, or, not and parentheses, as pytest.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, metavar="N", help="Scenarios at once; default: one a CPU.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of all that is left to chance; default: the file's.", show_default=False),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit report here.", show_default=False)
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Show what became of those that fail, and expect that from now on.")
    ] = False,
    recorded: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="FILE",
            help="Write a scenario of what a relay did with its last message, or with these.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[str | None, OPTION] = None,
) -> None:
    """Play scenarios: mail flows with their configuration, servers, DNS and all that must come of them.

    Folders are searched for *.toml. A file there without title, message and explain is no scenario.

    --update shows what it changes in the files and does it at once; the history of the files has what was before.

    Exit status: 0 all passed, 1 some did not, 64 wrong usage, 78 a scenario file, or with --record a configuration,
    cannot be used; the others are played all the same.
    """
    import os

    if recorded is not None:
        _record(recorded, paths or [], config)
        return
    if not paths:
        raise typer.BadParameter("Missing argument PATH: name scenario files, or folders of them")
    files = _found(paths)
    _test(files, expression, jobs or os.cpu_count() or 1, seed, report, update)


def _found(paths: Sequence[str]) -> list[Path]:
    """The files, each once. Raises typer.BadParameter."""
    found: dict[Path, None] = {}
    for each in paths:
        path = Path(each)
        if path.is_dir():
            found |= dict.fromkeys(file for file in sorted(path.rglob("*.toml")) if _is_scenario(file))
        elif path.exists():
            found[path] = None
        else:
            raise typer.BadParameter(f"{each}: there is no such file or folder")
    if not found:
        raise typer.BadParameter(f"there is no scenario in {' '.join(paths)}")
    return list(found)


def _is_scenario(file: Path) -> bool:
    """Whether a file of a folder is meant to be one; what cannot be read is, and its mistake is told."""
    import tomllib

    try:
        return bool({"title", "message", "explain"}.intersection(tomllib.loads(file.read_text())))
    except (OSError, ValueError):
        return True


def _test(
    files: Sequence[Path], expression: str | None, jobs: int, seed: int | None, report: Path | None, update: bool
) -> NoReturn:
    import asyncio

    from smtproute.cli.ending import Verdict
    from smtproute.cli.junit import junit
    from smtproute.world import SystemClock

    clock = SystemClock()
    began, now = clock.monotonic(), clock.now()
    chosen = _chosen([(file, _read(file)) for file in files], expression)
    tested = asyncio.run(_all(chosen, jobs, seed, update))
    for each in tested:
        if each.told:
            print(f"\n{_heading(each)}\n\n{each.told}")
    seconds = clock.monotonic() - began
    print(f"\n{_sum(tested)} in {seconds:.1f} s")
    if report is not None:
        try:
            report.write_bytes(junit(tested, seconds, now))
        except OSError as error:
            raise typer.BadParameter(f"--junit {report}: {(error.strerror or str(error)).lower()}") from None
    verdicts = {each.verdict for each in tested}
    if Verdict.BROKEN in verdicts:
        raise typer.Exit(CONFIG)
    raise typer.Exit(1 if verdicts & {Verdict.FAILED, Verdict.FAULT} else 0)


def _chosen(
    read: Sequence[tuple[Path, Scenario | Ending]], expression: str | None
) -> Sequence[tuple[Path, Scenario | Ending]]:
    """Those that `-k` chooses. Raises typer.BadParameter."""
    from smtproute.cli.selection import SelectionFault, selection

    if expression is None:
        return read
    try:
        selects = selection(expression)
    except SelectionFault as fault:
        raise typer.BadParameter(f"-k {expression}: {fault}") from None
    chosen = [(file, each) for file, each in read if selects(f"{file} {each.title}")]
    if not chosen:
        raise typer.BadParameter(f"-k {expression}: no scenario has that")
    return chosen


async def _all(
    read: Sequence[tuple[Path, Scenario | Ending]], jobs: int, seed: int | None, update: bool
) -> list[Ending]:
    """Plays them, so many at once, and says how each ended, in their order."""
    import asyncio

    from smtproute.cli.ending import Ending

    free = asyncio.Semaphore(jobs)
    ended: dict[int, Ending] = {}
    told = 0

    def tell(number: int, tested: Ending) -> None:
        nonlocal told
        ended[number] = tested
        while told in ended:
            print(_line(ended[told]), flush=True)
            told += 1

    async def one(number: int, file: Path, scenario: Scenario | Ending) -> None:
        async with free:
            tell(number, scenario if isinstance(scenario, Ending) else await _played(file, scenario, seed, update))

    playing = (one(number, *each) for number, each in enumerate(read))
    for number, raised in enumerate(await asyncio.gather(*playing, return_exceptions=True)):
        if isinstance(raised, BaseException):
            tell(number, _fault(read[number][0], read[number][1].title, raised))
    return [ended[number] for number in range(len(read))]


def _read(file: Path) -> Scenario | Ending:
    from smtproute.config.document import Mistake
    from smtproute.testing.scenarios.scenario import read

    try:
        return read(file)
    except Mistake as mistake:
        return _broken(file, "", mistake)


async def _played(file: Path, scenario: Scenario, seed: int | None, update: bool) -> Ending:
    from smtproute.cli.ending import Ending, Verdict
    from smtproute.config.document import Mistake
    from smtproute.testing.scenarios.play import play
    from smtproute.testing.scenarios.scenario import read
    from smtproute.testing.scenarios.update import NotUpdated

    try:
        result = await play(scenario, seed=seed)
        told = result.report
        if update and result.changes:
            try:
                told = _updated(file, result.changes)
            except NotUpdated as why:
                told = f"cannot be updated: {why}\n\n{told}"
            else:
                result = await play(read(file), seed=seed)
                told += f"\n\n{result.report}" if result.report else ""
    except Mistake as mistake:
        return _broken(file, scenario.title, mistake)
    verdict = Verdict.OK if result.passed else Verdict.FAILED
    return Ending(str(file), verdict, scenario.title, result.seconds, told)


def _updated(file: Path, changes: Sequence[Change]) -> str:
    """Writes the changes into the file; answers what they are. Raises NotUpdated."""
    from smtproute.testing.scenarios.update import difference, updated

    old = file.read_bytes().decode()
    new = updated(old, changes)
    file.write_bytes(new.encode())
    return difference(old, new, str(file)).rstrip("\n")


def _broken(file: Path, title: str, mistake: Exception) -> Ending:
    from smtproute.cli.ending import Ending, Verdict

    return Ending(str(file), Verdict.BROKEN, title, told=str(mistake))


def _fault(file: Path, title: str, fault: BaseException) -> Ending:
    import traceback

    from smtproute.cli.ending import Ending, Verdict

    told = "".join(traceback.format_exception(fault)).rstrip()
    return Ending(str(file), Verdict.FAULT, title, told=told)


def _line(tested: Ending) -> str:
    return f"{tested.verdict:<6}  {_heading(tested)} ({tested.seconds:.2f} s)"


def _heading(tested: Ending) -> str:
    from smtproute.core.transcript import legible

    return legible(f"{tested.file}: {tested.title}" if tested.title else tested.file)


def _sum(tested: Sequence[Ending]) -> str:
    """`3 passed, 1 failed`."""
    from smtproute.cli.ending import Verdict

    words = {
        Verdict.OK: "passed",
        Verdict.FAILED: "failed",
        Verdict.BROKEN: "broken",
        Verdict.FAULT: "ended by a fault",
    }
    counts = {word: sum(each.verdict is verdict for each in tested) for verdict, word in words.items()}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _record(file: Path, messages: Sequence[str], config: str | None) -> None:
    import asyncio

    recorded = asyncio.run(_recorded(file, messages, config))
    files = {file: recorded.text.encode(), **{file.parent / name: octets for name, octets in recorded.beside.items()}}
    if there := [str(each) for each in files if each.exists()]:
        raise typer.BadParameter(f"--record {file}: {', '.join(there)} is there already")
    for each, octets in files.items():
        try:
            each.write_bytes(octets)
        except OSError as error:
            raise typer.BadParameter(f"--record {each}: {(error.strerror or str(error)).lower()}") from None
        print(f"{each} written")


async def _recorded(file: Path, messages: Sequence[str], config: str | None) -> Recorded:
    import os

    from smtproute.cli.configuration import reader
    from smtproute.cli.spool import opened
    from smtproute.config.load import find
    from smtproute.testing.scenarios.record import NotRecorded, latest, record

    async with opened(config) as spool:
        settings = reader(config)().settings
        try:
            return await record(
                spool,
                messages or await latest(spool),
                file,
                config=find(config, os.environ, Path.cwd()),
                settings=settings,
                environ=os.environ,
            )
        except NotRecorded as why:
            print(why, file=sys.stderr)
            raise typer.Exit(1) from None
