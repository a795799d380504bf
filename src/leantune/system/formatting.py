"""Numbers and times as a person reads them: in the terminal, in a report, in a message."""


def figure(value: float, digits: int) -> str:
    """Return a number in `digits` places after the point, fewer where it is large: `0.512`, `12.3`, `12,346`.

    Below 0.1 it has as many digits other than the leading zeros: `0.0123`.
    """
    size = abs(value)
    if 0 < size < 0.1 or size >= 1e9:
        return f"{value:.{digits}g}"
    return f"{value:,.{max(0, digits + 1 - len(f'{size:.0f}'))}f}"


def countdown(seconds: float) -> str:
    """Return seconds in the fewest characters: `0:07`, `3:20`, `1:03:20`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def duration(seconds: float) -> str:
    """Return seconds as a person reads them: `8.1 s`, `2 min 05 s`, `1 h 04 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
