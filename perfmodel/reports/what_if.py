"""Report of what-if hardware: which numbers are not as the profile has them."""

from perfmodel.hardware.fabric import System
from perfmodel.hardware.what_if import changes


def what_if_lines(system: System) -> list[str]:
    """Say what was changed, and what the answer rests on because of it.

    Parameters
    ----------
    system : System
        A system, perhaps one with changed numbers.

    Returns
    -------
    list of str
        One line, or none for a system as it is.

    Examples
    --------
    >>> from perfmodel.hardware.catalog import load_system
    >>> from perfmodel.hardware.what_if import scaled
    >>> what_if_lines(scaled(load_system("hgx-h100"), {"memory_bandwidth": 2.0}))[0][:53]
    ' What if: memory bandwidth 6.7 TB/s (x2 of 3.35 TB/s)'
    """
    found = [f"{row.note.replace('_', ' ')} {row.text}" for row in changes(system)]
    if not found:
        return []
    return [f" What if: {', '.join(found)}. Kernels keep the share of peak that was measured on the machine as it is."]
