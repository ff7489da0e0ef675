"""Fast paths (filled in below)."""


def quantize(values, format, scaling, stored):
    return None
