"""The command line: one module a command.

What a command needs is imported inside it, so that `smtproute explain` does not wait for what only `serve` uses.
Exit status 64 is wrong usage, 78 a configuration that cannot be used; 0 to 2 are a command's own finding.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from smtproute import __version__
from smtproute.cli import accounts, check, demo, endpoints, explain, keys, queue, serve, test, trace, upstream, verify

__all__ = ["main"]

USAGE = 64
"""EX_USAGE of sysexits(3)."""

# The root of typer's own errors: click's, or since typer carries its own copy of click, that copy's.
_Refused: type[Any] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="smtproute",
    help="An SMTP routing relay and test harness that can say why each copy went where it went.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"smtproute {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None: ...


app.command("serve")(serve.command)
app.command("demo")(demo.command)
app.command("explain")(explain.command)
app.command("check")(check.command)
app.command("endpoints")(endpoints.command)
app.command("accounts")(accounts.command)
app.command("trace")(trace.command)
app.command("verify")(verify.command)
app.command("upstream")(upstream.command)
app.command("test")(test.command)
app.add_typer(queue.app, name="queue")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """The entry point."""
    try:
        status: Any = app(standalone_mode=False)
    except _Refused as error:
        error.show()
        sys.exit(USAGE)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (BrokenPipeError, BaseExceptionGroup) as error:
        if isinstance(error, BaseExceptionGroup) and error.split(BrokenPipeError)[1] is not None:
            raise
        # Nobody reads any more: end as a program ends that SIGPIPE kills, and let the last flush go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(status if isinstance(status, int) else 0)
