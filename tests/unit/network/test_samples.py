"""Whatever holds numbers is taken as samples, and is what numpy or torch say it is; the rest is refused."""

from __future__ import annotations

import datetime
import decimal
import fractions

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from torch import nn

import securedl
from securedl.errors import InputError
from securedl.network import samples as module
from securedl.network.graph import samples_of
from securedl.network.samples import column_names

pytestmark = pytest.mark.filterwarnings("ignore:.* is sparse and becomes an array")
BASE = np.array([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]])
ROWS = [[0, 1, 0], [2, 0, 3]]
TENSOR = torch.tensor(BASE)
FRAME = pd.DataFrame(BASE, columns=["a", "b", "c"])

TAKEN = {
    "float16": BASE.astype(np.float16),
    "long double": BASE.astype(np.longdouble),
    "uint8": BASE.astype(np.uint8),
    "object": BASE.astype(object),
    "objects of many kinds": np.array(
        [[False, np.int8(1), decimal.Decimal(0)], [fractions.Fraction(2), 0.0, 3]], dtype=object
    ),
    "big endian": BASE.astype(">f4"),
    "strided": np.asfortranarray(np.c_[BASE, BASE])[:, :3],
    "nothing masked": np.ma.array(BASE, mask=False),
    "rows": ROWS,
    "tuples": tuple(map(tuple, ROWS)),
    "half": TENSOR.half(),
    "bfloat16": TENSOR.bfloat16(),
    "int64": TENSOR.long(),
    "gradient": TENSOR.clone().requires_grad_(),
    "sparse tensor": TENSOR.to_sparse(),
    "sparse tensor of bfloat16": TENSOR.bfloat16().to_sparse(),
    "list of tensors": list(TENSOR),
    "list of tensors with gradient": [row.clone().requires_grad_() for row in TENSOR],
    "list of bfloat16": list(TENSOR.bfloat16()),
    "lists of tensors": [list(row) for row in TENSOR],
    "list of arrays": list(BASE),
    "csr": sparse.csr_matrix(BASE),
    "csc array": sparse.csc_array(BASE),
    "coo of integers": sparse.coo_matrix(BASE.astype(int)),
    "frame": FRAME,
    "frame without names": pd.DataFrame(BASE),
    "frame of many types": FRAME.astype({"a": "Int64", "b": bool, "c": np.float32}),
    "frame of objects": FRAME.astype(object),
    "frame of sparse columns": FRAME.astype(pd.SparseDtype("float64", 0.0)),
    "numbered columns in another order": pd.DataFrame(BASE)[[2, 0, 1]],
    "numbers as text for columns": pd.DataFrame(BASE, columns=["0", "1", "2"])[["1", "2", "0"]],
    "conjugate": torch.imag(torch.complex(TENSOR, -TENSOR).conj()),
    "list of series": [row for _, row in FRAME.iterrows()],
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_many_kinds_are_taken(name):
    found = samples_of(TAKEN[name], (3,))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, BASE)


DAY = datetime.date(2024, 2, 29)
REFUSED = {
    "complex": (BASE + 1j, "complex"),
    "complex tensor": (TENSOR + 1j, "complex"),
    "complex object": (np.array([[1 + 2j, 0]], dtype=object), "complex"),
    "text": (np.array([["1", "2"]]), "text"),
    "rows of text": ([["1", "2"]], "text"),
    "bytes": (np.array([[b"1"]]), "text"),
    "text among objects": (np.array([[1.0, "2"]], dtype=object), "text"),
    "dates": (np.array([["2024-02-29"]], dtype="datetime64[D]"), "dates or times"),
    "durations": (np.array([[3]], dtype="timedelta64[s]"), "dates or times"),
    "date objects": (np.array([[DAY]], dtype=object), "dates or times"),
    "records": (np.zeros((2, 1), dtype=[("a", float)]), "records"),
    "masked": (np.ma.array(BASE, mask=BASE == 1), "masked values"),
    "ragged": ([[1, 2], [3]], "must be an array of numbers"),
    "ragged tensors": ([torch.ones(2), torch.ones(3)], "must be an array of numbers"),
    "gaps": ([[1.0, None]], "NaN"),
    "a set": ({1, 2}, "must be an array of numbers, got a set"),
    "without values": (torch.ones(2, 3, device="meta"), "must be an array of numbers, got a Tensor"),
    "frame of text": (pd.DataFrame({"a": [1.0], "town": ["Rome"]}), "'town' of here holds text"),
    "frame of categories": (pd.DataFrame({"a": pd.Categorical(["x", "y"])}), "'a' of here holds text"),
    "frame of dates": (pd.DataFrame({"when": [pd.Timestamp(DAY)]}), "'when' of here holds dates"),
    "frame of zones": (pd.DataFrame({"when": [pd.Timestamp(DAY, tz="UTC")]}), "'when' of here holds dates"),
    "frame with gaps": (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), r"'a' of here .*|NaN"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_numbers_is_refused(name):
    x, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        samples_of(x, what="here")


class TestSparse:
    @pytest.mark.parametrize(
        "x", [sparse.csr_matrix((10_000, 100_000)), torch.zeros(10_000, 100_000, layout=torch.sparse_coo)]
    )
    def test_a_large_one_is_not_filled(self, x):
        with pytest.raises(
            InputError, match=r"7.45 GiB with its zeros, more than 1: give at most 1342 samples"
        ):
            samples_of(x, what="here")

    def test_what_becomes_of_it_is_said(self):
        with pytest.warns(UserWarning, match=r"here is sparse and becomes an array \[2, 3\]"):
            samples_of(sparse.csr_matrix(BASE), what="here")

    def test_one_sample_may_be_too_large(self):
        with pytest.raises(InputError, match="fewer features"):
            samples_of(sparse.coo_matrix((1, 2**28)))

    def test_the_bound_is_exact(self, monkeypatch):
        monkeypatch.setattr(module, "MAX_DENSE", 8 * 6)
        np.testing.assert_array_equal(samples_of(sparse.csr_matrix(BASE)), BASE)
        with pytest.raises(InputError, match="at most 2 samples"):
            samples_of(sparse.csr_matrix(np.r_[BASE, BASE]))


class TestColumns:
    @given(st.permutations(["a", "b", "c"]))
    def test_any_order_is_put_right(self, order):
        np.testing.assert_array_equal(samples_of(FRAME[list(order)], columns=("a", "b", "c")), BASE)

    def test_an_array_is_taken_as_it_is(self):
        np.testing.assert_array_equal(samples_of(BASE, columns=("c", "b", "a")), BASE)

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (FRAME[["a", "c"]], r"here lacks the column\(s\) 'b'; give the 3 columns"),
            (FRAME.rename(columns={"b": "B"}), r"lacks the column\(s\) 'b' and has .* had not: 'B'"),
            (FRAME.assign(d=1.0), r"had not: 'd'"),
            (FRAME[["a", "b", "c", "a"]], "has a column twice"),
            (pd.DataFrame(BASE), r"lacks the column\(s\) 'a', 'b', 'c'"),
            (FRAME.assign(**{f"n{k}": 0.0 for k in range(9)}), "'n4' and 4 more"),
        ],
    )
    def test_other_columns_are_named(self, x, message):
        with pytest.raises(InputError, match=message):
            samples_of(x, columns=("a", "b", "c"), what="here")

    def test_names(self):
        assert column_names(FRAME, "x") == ("a", "b", "c")
        assert column_names(pd.DataFrame(BASE), "x") == ()
        assert column_names(BASE, "x") == ()
        assert column_names(TENSOR, "x") == ()
        with pytest.raises(InputError, match="more than one column named 'a'"):
            column_names(FRAME[["a", "b", "a"]], "x")


class TestPlan:
    """A plan from a table keeps the names of its columns."""

    x = pd.DataFrame(np.random.default_rng(0).normal(size=(64, 4)) * [1, 10, 100, 1000], columns=list("abcd"))

    @staticmethod
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(4, 2).double()

    def test_columns_in_another_order(self, tmp_path):
        model = self.model()
        plan = securedl.compile(model, self.x)
        assert plan.signature.columns == ("a", "b", "c", "d")
        want = model(torch.tensor(self.x.to_numpy())).detach().numpy()
        plan.save(tmp_path / "plan")
        for each in (plan, securedl.load_plan(tmp_path / "plan")):
            for x in (self.x, self.x[list("dbca")], self.x.to_numpy()):
                np.testing.assert_allclose(each.simulate(x), want, atol=1e-4 * np.ptp(want))
            with pytest.raises(InputError, match=r"lacks the column\(s\) 'b'"):
                each.simulate(self.x[["a", "c", "d"]])

    def test_an_outlier_is_named(self):
        plan, far = securedl.compile(self.model(), self.x), self.x.copy()
        far.loc[3, "b"] = 1e9
        with pytest.raises(InputError, match=r"in x\[3\] feature 'b' is 1e\+09"):
            plan.simulate(far[list("dcba")], outliers="raise")

    def test_an_array_leaves_no_names(self):
        plan = securedl.compile(self.model(), self.x.to_numpy())
        assert plan.signature.columns == ()
        found = plan.simulate(self.x[list("dcba")])
        np.testing.assert_array_equal(found, plan.simulate(self.x[list("dcba")].to_numpy()))

    def test_approximate_takes_tables_and_sparse_matrices(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
        x = self.x / [1, 10, 100, 1000]
        found = [
            securedl.approximate(model, samples)(torch.tensor(x.to_numpy())).detach().numpy()
            for samples in (x.to_numpy(), x, sparse.csr_matrix(x.to_numpy()))
        ]
        np.testing.assert_allclose(found[1:], [found[0]] * 2, atol=1e-12)
