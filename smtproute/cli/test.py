"""`smtproute test`: plays scenario files, writes one from what a relay did, accepts what has become of another."""

from __future__ import annotations

import signal
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

_TERMINATED = 128 + signal.SIGTERM
"""The exit status of a program that SIGTERM ended, as shells have it."""


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
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, metavar="N", help="So many scenarios at once.")] = 8,
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
    if recorded is not None:
        _record(recorded, paths or [], config)
        return
    if not paths:
        raise typer.BadParameter("Missing argument PATH: name scenario files, or folders of them")
    files = _found(paths)
    _test(files, expression, jobs, seed, report, update)


def _found(paths: Sequence[str]) -> list[Path]:
    """The files, each once. Raises typer.BadParameter."""
    from smtproute.testing.scenarios.folder import is_scenario

    found: dict[Path, None] = {}
    for each in paths:
        path = Path(each)
        if path.is_dir():
            found |= dict.fromkeys(file for file in sorted(path.rglob("*.toml")) if is_scenario(file))
        elif path.exists():
            found[path] = None
        else:
            raise typer.BadParameter(f"{each}: there is no such file or folder")
    if not found:
        raise typer.BadParameter(f"there is no scenario in {' '.join(paths)}")
    return list(found)


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
    try:
        tested = asyncio.run(_all(chosen, jobs, seed, update))
    except asyncio.CancelledError:
        raise typer.Exit(_TERMINATED) from None
    for each in tested:
        if each.told:  # a mistake names its file itself
            print(f"\n{each.told}" if each.verdict is Verdict.BROKEN else f"\n{_heading(each)}\n\n{each.told}")
    seconds = clock.monotonic() - began
    print(f"\n{_sum(tested)} in {seconds:.1f} s")
    if report is not None:
        try:
            report.write_bytes(junit(tested, seconds, now))
        except OSError as error:
            raise typer.BadParameter(f"--junit {report}: {(error.strerror or str(error)).lower()}") from None
    if any(each.verdict is Verdict.BROKEN for each in tested):
        raise typer.Exit(CONFIG)
    raise typer.Exit(0 if all(each.passed for each in tested) else 1)


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
    """Plays them, so many at once, and says how each ended, in their order. SIGTERM cancels them, as SIGINT does."""
    import asyncio

    from smtproute.cli.ending import Ending

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
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
            if isinstance(scenario, Ending):
                tell(number, scenario)
                return
            # What one of them dies of, whatever it is, ends no other.
            (ending,) = await asyncio.gather(_played(file, scenario, seed, update), return_exceptions=True)
            if isinstance(ending, Exception):
                ending = _fault(file, scenario.title, ending)
            elif isinstance(ending, BaseException):
                raise ending
            tell(number, ending)

    async with asyncio.TaskGroup() as group:
        for number, each in enumerate(read):
            group.create_task(one(number, *each))
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

    passes = Verdict.OK
    try:
        result = await play(scenario, seed=seed)
        told = result.report
        if update and result.changes:
            try:
                _update(file, result.changes)
            except NotUpdated as why:
                told = f"cannot be updated: {why}\n\n{told}"
            else:
                passes = Verdict.UPDATED
                result = await play(read(file), seed=seed)
                told = result.report
    except Mistake as mistake:
        return _broken(file, scenario.title, mistake)
    verdict = passes if result.passed else Verdict.FAILED
    return Ending(str(file), verdict, scenario.title, result.seconds, told)


def _update(file: Path, changes: Sequence[Change]) -> None:
    """Shows what the changes are, and writes them into the file. Raises NotUpdated."""
    from smtproute.testing.scenarios.update import NotUpdated, difference, updated

    octets = file.read_bytes()
    old = octets.decode("utf-8-sig")
    mark = octets.removesuffix(old.encode())  # of byte order, or nothing
    new = updated(old, changes)
    print(f"\n{difference(old, new, str(file))}", flush=True)
    try:
        file.write_bytes(mark + new.encode())
    except OSError as error:
        raise NotUpdated(f"the file cannot be written: {(error.strerror or 'error').lower()}") from None


def _broken(file: Path, title: str, mistake: Exception) -> Ending:
    from smtproute.cli.ending import Ending, Verdict

    return Ending(str(file), Verdict.BROKEN, title, told=str(mistake))


def _fault(file: Path, title: str, fault: Exception) -> Ending:
    import traceback

    from smtproute.cli.ending import Ending, Verdict

    told = "".join(traceback.format_exception(fault)).rstrip()
    return Ending(str(file), Verdict.FAULT, title, told=told)


def _line(tested: Ending) -> str:
    return f"{tested.verdict:<7} {_heading(tested)} ({tested.seconds:.2f} s)"


def _heading(tested: Ending) -> str:
    from smtproute.core.transcript import legible

    return legible(f"{tested.file}: {tested.title}" if tested.title else tested.file)


def _sum(tested: Sequence[Ending]) -> str:
    """`3 passed, 1 failed`."""
    from smtproute.cli.ending import Verdict

    words = {
        Verdict.OK: "passed",
        Verdict.UPDATED: "updated",
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
