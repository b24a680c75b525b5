"""Kernel shapes: output tiles a GEMM kernel family can use, and how often the host launches (counts)."""

ANY = float("inf")

TILES: dict[str, tuple[tuple[int, int, float, float], ...]] = {
    # rows, columns, then the range of tokens (above, up to) for which the kernel exists.
    # Chosen freely by a library's heuristic (cuBLAS, nvjet, CUTLASS with autotuning, DeepGEMM).
    "library": (
        (64, 64, 0, ANY),
        (64, 128, 0, ANY),
        (128, 64, 0, ANY),
        (128, 128, 0, ANY),
        (128, 256, 0, ANY),
        (256, 128, 0, ANY),
        (256, 256, 0, ANY),
    ),
    "narrow": (
        (64, 16, 0, ANY),
        (64, 32, 0, ANY),
        (64, 64, 0, ANY),
        (64, 128, 0, ANY),
        (128, 128, 0, ANY),
        (128, 256, 0, ANY),
    ),
    "small": ((64, 32, 0, ANY), (64, 64, 0, ANY), (128, 128, 0, ANY)),
    "medium": ((64, 64, 0, ANY), (64, 128, 0, ANY), (128, 128, 0, ANY)),
    "square": ((128, 64, 0, ANY), (128, 128, 0, ANY), (256, 256, 0, ANY)),
    # One tile whatever the shape.
    "fixed_128": ((128, 128, 0, ANY),),
    # Dispatched on the number of tokens alone, as in the CUTLASS launchers of the serving engines.
    "rows_128": ((64, 64, 0, 64), (64, 128, 64, 128), (128, 128, 128, ANY)),
    "rows_256": ((64, 64, 0, 64), (64, 128, 64, 256), (128, 128, 256, ANY)),
    "rows_ada": (
        (16, 64, 0, 16),
        (32, 64, 16, 32),
        (64, 128, 32, 128),
        (128, 64, 128, 256),
        (128, 128, 256, ANY),
    ),
    "rows_512": (
        (16, 64, 0, 16),
        (32, 64, 16, 64),
        (64, 64, 64, 128),
        (128, 64, 128, 256),
        (128, 128, 256, ANY),
        (128, 256, 512, ANY),
    ),
}
"""Tile menus: which output tiles a kernel family can use, and for how many tokens."""

HOST_LAUNCHES = ("hidden", "constant", "padded", "staged")
"""Where the host is in the loop: not at all; one launch; three, and four where the rows need padding to a multiple of
four; two up to 16 rows, three above, six where a side is shorter than the kernel's block (fall-back kernel)."""
