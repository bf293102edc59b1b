"""ICC profiles made by hand (ICC.1:2022), and what their colours are in sRGB by the formulas."""

import struct

import numpy as np

# red, green and blue in XYZ, adapted to D50 (Bradford), of the spaces' published primaries
SRGB = np.array([[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
DISPLAY_P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
ADOBE_RGB = np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]])
D50 = (0.9642, 1.0, 0.8249)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


def _description(text: bytes) -> bytes:
    record = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2 * len(text), 28)
    return record + text.decode().encode("utf-16-be")


def _profile(space: bytes, kind: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    tags = {b"desc": _description(b"test"), b"cprt": _description(b"none"), b"wtpt": _xyz(D50)} | tags
    start, table, content = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s12x4s28xiii", 0, b"test", 0x04300000, kind, space, connection, b"acsp", 0, 0, 0)
    header = header[:68] + _fixed(*D50) + bytes(48)
    whole = header + struct.pack(">I", len(tags)) + table + content
    return struct.pack(">I", len(whole)) + whole[4:]


def rgb_profile(matrix: np.ndarray, gamma: float) -> bytes:
    columns = {name: _xyz(matrix[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _profile(b"RGB ", b"mntr", columns | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma)))


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"mntr", {b"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
    """Every ink alone, or with others, is the Lab colour of a table: here all are greys by the sum of inks."""
    lightness = [max(0, 255 - 100 * bin(inks).count("1")) for inks in range(16)]
    table = b"".join(bytes((value, 128, 128)) for value in lightness)
    identity = b"".join(map(bytes, [range(256)] * 4))
    header = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return _profile(b"CMYK", b"prtr", {b"A2B0": header + identity + table + identity[: 3 * 256]}, b"Lab ")


def in_srgb(colour: tuple[int, int, int], matrix: np.ndarray, gamma: float) -> np.ndarray:
    """The sRGB values 0 to 255 of a colour (IEC 61966-2-1)."""
    linear = np.linalg.inv(SRGB) @ matrix @ (np.array(colour) / 255) ** gamma
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
