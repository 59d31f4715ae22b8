"""The entry point: registers the commands and runs the one that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from bench.cli.app import app, err
from bench.cli.audit import audit
from bench.cli.bank import bank
from bench.cli.board import board
from bench.cli.check import check
from bench.cli.compare import compare
from bench.cli.doctor import doctor
from bench.cli.export import export
from bench.cli.fetch import fetch
from bench.cli.figure import figure
from bench.cli.leaderboard import leaderboard
from bench.cli.plot import plot
from bench.cli.rehearse import rehearse
from bench.cli.run import run
from bench.cli.show import list_, show
from bench.cli.submit import submit
from bench.cli.train import train
from bench.cli.verify import verify
from bench.cli.watch import watch
from bench.errors import BenchError

# In the order of the help.
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "watch": watch,
    "audit": audit,
    "submit": submit,
    "verify": verify,
    "compare": compare,
    "list": list_,
    "show": show,
    "leaderboard": leaderboard,
    "board": board,
    "export": export,
    "plot": plot,
    "figure": figure,
    "train": train,
    "doctor": doctor,
    "fetch": fetch,
    "rehearse": rehearse,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(bank, name="bank")
app.add_typer(check, name="check")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: bad input, and a machine that fails, are one sentence on standard error and exit code 2.

    Args:
        arguments: those of the command line, without the program's name; the process's own if not given.
    """
    command: Callable[..., Any] = app
    try:
        command(arguments)
    except BenchError as error:
        _refuse(str(error))
    except Exception as error:
        from bench.faults import machine_fault  # torch, which most commands that fail have loaded already

        fault = machine_fault(error)
        if not fault:
            raise
        _refuse(f"The machine failed: {fault}. What was finished before is stored; mend that and repeat the command.")


def _refuse(sentence: str) -> NoReturn:
    err.print(f"Error: {sentence}", style="red", soft_wrap=True)
    raise SystemExit(2) from None
