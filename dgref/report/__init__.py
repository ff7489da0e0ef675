"""Results for people and machines: JSON, JUnit, terminal, one HTML page; and what is said about bundles of them."""

from dgref.report.bundle import write_bundle

__all__ = ["write_bundle"]
