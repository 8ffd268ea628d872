"""Blocks and KDrefine's students against the official code, tighter than other golden cases: a fold has to be exact."""

import pytest
from golden_cases import Case, cases_in, golden_folders
from test_golden_methods import compare

FILES = ("rep_blocks.npz", "rep_nets.npz")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_rep" in metafunc.fixturenames:
        folders = golden_folders(metafunc.config, "manifest.json")
        cases = [case for folder in folders for case in cases_in(folder) if case.file in FILES]
        metafunc.parametrize("golden_rep", cases, ids=str)


@pytest.mark.parametrize(("precision", "relative"), [("f64", 1e-12), ("f32", 2e-6)])
def test_golden_rep(golden_rep: Case, precision: str, relative: float) -> None:
    assert compare(golden_rep, precision, relative, 0.0, gradients=True) == len(golden_rep.expected(precision))
