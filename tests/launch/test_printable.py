"""Names, paths, errors and logs reach a terminal without characters that would steer it."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from launch.process.printable import LONGEST_LINE, printable, shortened
from launch.process.signals import say
from launch.process.stamps import stamped
from launch.screens.console import make_console
from launch.screens.measurements import TableResults, print_table
from launch.screens.progress import ProgressBar
from launch.screens.progress_lines import ProgressLines

STEERING = "\x1b[2J\x1b]0;title\x07\r\x08\x7f\x9b31m\u202e\u2066\x00"
LEFT = "\x1b\x07\r\x08\x7f\x9b\u202e\u2066\x00"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ümläut, 漢字, 🎬", "plain, ümläut, 漢字, 🎬"),
        ("a\x1b[31mb", "a\N{REPLACEMENT CHARACTER}[31mb"),
        ("a\tb\nc\r\nd", "a b c  d"),
        ("family 👩\u200d👧, می\u200cخواهم", "family 👩\u200d👧, می\u200cخواهم"),
        ("a\u202eb", "a\N{REPLACEMENT CHARACTER}b"),
        ("a\x85b\x1cc", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"),
        ("a\udcffb", "a\N{REPLACEMENT CHARACTER}b"),
        ("a\u00a0b\u2028c", "a b c"),
        ("", ""),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_shortened_keeps_both_ends() -> None:
    text = "It is " + "x" * 10_000 + ": use less."
    cut = shortened(text, 100)
    assert len(cut) == 100 and cut.startswith("It is xxx") and cut.endswith(": use less.") and "…" in cut
    assert shortened(text, len(text)) == text


def test_a_line_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    say(f"lockstep: {STEERING} is wrong\nlockstep: a forged line")
    error = capfd.readouterr().err
    assert not set(LEFT) & set(error) and error.count("\n") == 1 and "is wrong" in error
    say("lockstep: " + "x" * 1_000_000 + ": shorten it.")
    error = capfd.readouterr().err
    assert len(error) < 5000 and error.endswith("x: shorten it.\n")


def test_whatever_a_console_draws() -> None:
    stream = io.StringIO()
    console = make_console(stream)
    table = Table(title=STEERING)
    table.add_column(STEERING)
    table.add_row(Text(f"row {STEERING}"))
    console.print(table)
    console.print(Text.assemble(("label ", "bold"), STEERING))
    console.print(f"{STEERING} end", markup=False)
    folder = Path(f"folder {STEERING.replace(chr(0), '')}")
    print_table(folder, TableResults(["a"], f"| {STEERING} |\n| b |"), stream)
    drawn = stream.getvalue()
    assert not set(LEFT) & set(drawn)
    assert "row " in drawn and "label " in drawn and "end\n" in drawn and "| b |\n" in drawn


def test_whatever_is_shown_is_cut(capfd: pytest.CaptureFixture[str]) -> None:
    """A line may quote a prompt, a list or a file that is as long as a book; both of its ends are shown."""
    text = "begin " + "word " * 200_000 + "end"
    stream = io.StringIO()
    console = make_console(stream)
    console.print(Text(text))
    console.print(Text.assemble(("label ", "bold"), text))
    console.print(text)
    for kind in (ProgressBar, ProgressLines):
        display = kind(stream)
        display.note(text)
        display.stage(text)
        display.close()
    print_table(Path("folder"), TableResults([text], f"| {text} |\n| b |"), stream)
    stream.write(f"{stamped(text)}\n")
    say(text)
    shown = stream.getvalue() + capfd.readouterr().err
    assert len(shown) < 10 * LONGEST_LINE and shown.count("begin word") >= 8 and shown.count("word end") >= 8


def _on_a_terminal(*arguments: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "launch", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 4096):
            written += chunk
    except OSError:
        pass  # the process has ended
    finally:
        os.close(ours)
        process.wait(60)
    return written.decode().replace("\r\n", "\n")


@pytest.mark.timeout(120)
def test_commands_on_a_terminal(tmp_path: Path) -> None:
    steering = STEERING.replace("\0", "")
    config = tmp_path / f"{steering}.yaml"
    config.write_text(f'"{steering.encode("unicode_escape").decode()}": 1\n')
    for arguments in (
        ["generate", str(config), "--prompt", "a"],
        ["generate", f"missing {steering}.yaml", "--prompt", "a"],
        ["config", str(config)],
        [f"generate{steering}"],
        ["config", "configs/tiny-wan.yaml", f"--{steering}"],
        ["config", "configs/tiny-wan.yaml", "--set", f"{steering}=1"],
        ["config", "configs/tiny-wan.yaml", "--set", f"model.path={steering}"],
        ["config", "configs/tiny-wan.yaml", "--set", "model.path=/a\u202eb"],
    ):
        written = _on_a_terminal(*arguments)
        assert written and not set(LEFT) & set(written), arguments
