"""python -m polyapprox sigmoid --degree 3 --interval -8 8 --out sigmoid.png"""

import argparse
import sys
from collections.abc import Sequence

from polyapprox.activations import ACTIVATIONS
from polyapprox.approximation import Approximation
from polyapprox.errors import FitError
from polyapprox.fit import least_squares
from polyapprox.minimax import remez
from polyapprox.plot import plot
from polyapprox.quadrature import WEIGHTS


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 after a one-sentence error."""
    options = _parser().parse_args(arguments)
    try:
        fits = _fits(options)
        for fit in fits:
            print(_text(fit))
        if options.out is not None:
            plot(options.function, fits, path=options.out)
            print(f"picture: {options.out}")
    except FitError as error:
        print(f"polyapprox: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:  # ValueError: a picture format that matplotlib does not know
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"polyapprox: cannot write {options.out}: {reason}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="polyapprox", description="Approximate an activation function by a polynomial."
    )
    parser.add_argument("function", help=f"one of {', '.join(ACTIVATIONS)}")
    parser.add_argument("--degree", type=int, default=3, help="degree of the polynomial (default 3)")
    parser.add_argument(
        "--interval", type=float, nargs=2, metavar=("LO", "HI"), help="default: the function's usual one"
    )
    parser.add_argument(
        "--method",
        choices=("ls", "minimax", "both"),
        default="ls",
        help="least squares (default), the best in the maximum norm, or both to compare",
    )
    parser.add_argument(
        "--weight", choices=WEIGHTS, default="uniform", help="weight of least squares (default uniform)"
    )
    parser.add_argument("--out", metavar="FILE", help="draw the fit and its error (png, svg or pdf)")
    return parser


def _fits(options: argparse.Namespace) -> list[Approximation]:
    if options.method == "minimax" and options.weight != "uniform":
        raise FitError("--weight is for least squares; leave it out or use --method ls or both")
    fits = []
    if options.method in ("ls", "both"):
        fits.append(least_squares(options.function, options.degree, options.interval, weight=options.weight))
    if options.method in ("minimax", "both"):
        fits.append(remez(options.function, options.degree, options.interval))
    return fits


def _text(fit: Approximation) -> str:
    lo, hi = fit.domain
    rows = [f"{fit.function} on [{lo:g}, {hi:g}], {fit.method}, degree {fit.degree}"]
    rows += [f"  x^{power}  {value: .17g}" for power, value in enumerate(fit.power())]
    proof = "proved" if fit.certified else "sampled"
    rows.append(f"  max error {fit.max_error:.6g} ({proof}), rms error {fit.rms_error:.6g}")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
