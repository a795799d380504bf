"""A headless Chromium for tests of pages: what it draws, what it says, and what it tries to load."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing leaves this machine, whatever a page asks for
    "--allow-file-access-from-files",  # a wrapper page may look into the page that it frames
)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What came of opening a page."""

    dom: str
    console: list[str]
    """Lines that the page or the browser wrote to the console: errors of scripts, of the page's own policy, ..."""
    requests: list[str]
    """Addresses that pages asked for over the network; the browser's own business is not among them."""


def find_browser() -> str:
    """Return the browser's command; without one, the test is skipped."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")


def visit(page: Path, folder: Path, *flags: str) -> Visit:
    """Open a page and return what came of it; `folder` takes the browser's own files."""
    log = folder / "network.json"
    done = _browse(page, folder, "--dump-dom", f"--log-net-log={log}", "--virtual-time-budget=2000", *flags)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(dom=done.stdout, console=console, requests=_requests(log))


def screenshot(page: Path, image: Path, folder: Path, *, width: int, height: int, dark: bool = False) -> None:
    """Save a picture of a page in a window of this size."""
    theme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _browse(page, folder, f"--screenshot={image}", f"--window-size={width},{height}", "--hide-scrollbars", theme)


def sizes(page: Path, folder: Path, widths: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    """Return how wide and high a page is that has this much width: one that needs more has to be scrolled sideways.

    A headless window is at least 500 wide, so the page stands in frames; a wrapper's script measures inside.
    """
    found = _measure(page, folder, widths, "r => [r.scrollWidth, r.scrollHeight]")
    return {width: (w, h) for width, (w, h) in zip(widths, found, strict=True)}


def cut_off(page: Path, folder: Path, widths: tuple[int, ...]) -> dict[int, list[str]]:
    """Return the classes of boxes that hide a part of a table until they are scrolled, in a page of each width."""
    boxes = """r => [...r.querySelectorAll("*")].filter(
        e => e.querySelector("table") && e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX != "visible"
    ).map(e => e.className)"""
    return dict(zip(widths, _measure(page, folder, widths, boxes), strict=True))


def _measure(page: Path, folder: Path, widths: tuple[int, ...], function: str) -> list[Any]:
    """Return what a function of JavaScript says of the page's root element, in a frame of each width."""
    wrapper = folder / "wrapper.html"
    frames = "".join(f'<iframe width="{w}" height="700" src="{html.escape(page.as_uri())}"></iframe>' for w in widths)
    wrapper.write_text(
        f"""<!doctype html><title>wrapper</title>{frames}<script>
        addEventListener("load", () => {{
            const roots = [...document.querySelectorAll("iframe")].map(f => f.contentDocument.documentElement);
            document.body.textContent = "measured " + JSON.stringify(roots.map({function}));
        }});
        </script>""",
        encoding="utf-8",
    )
    found = re.search(r"measured (\[.*\])", visit(wrapper, folder).dom)
    if found is None:
        raise AssertionError("the wrapper measured nothing")
    measured: list[Any] = json.loads(html.unescape(found[1]))
    return measured


def _browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [find_browser(), *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def _requests(log: Path) -> list[str]:
    """Return the addresses of a network log's requests that a page began: those have an origin, if only `null`."""
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    started = [event.get("params", {}) for event in events]
    return [p["url"] for p in started if "url" in p and p.get("initiator", "not an origin") != "not an origin"]
