"""The server's default evaluator: compiled kernels on residues held as doubles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from securedl.errors import InputError
from securedl.he.arithmetic import Evaluator, Group
from securedl.he.params import Parameters
from securedl.he.record import Record
from securedl.he.vector.engine import Engine
from securedl.he.vector.handles import Handle, SwitchKey
from securedl.he.vector.kernels import rows
from securedl.he.vector.kernels.buffers import Piece
from securedl.he.vector.kernels.cache import compile_all
from securedl.he.vector.merging import TOGETHER, Merging
from securedl.he.vector.products import SCALE_TOLERANCE
from securedl.he.vector.stages import Stage


@lru_cache
def warm_up() -> None:
    """Compile every kernel, or load it from the cache (about a third of a second)."""
    compile_all()


class VectorEvaluator(Merging, Evaluator[Handle]):
    """Evaluates with Numba kernels; safe to call from many threads at once.

    Every result equals SEAL's in every residue, but for `rotate` with several steps and `rotate_sum`:
    these share work that SEAL repeats, and equal SEAL after decryption. With `exact` they too give SEAL's
    residues, more slowly.

    Args:
        params: the modulus chain.
        threads: threads that one operation may use; they hold no interpreter lock.
        exact: whether all residues must be SEAL's.
    """

    def __init__(self, params: Parameters, threads: int = 1, exact: bool = False) -> None:
        if threads < 1:
            raise InputError(f"an evaluator needs at least one thread, got {threads}")
        super().__init__(params, Engine(params, threads))
        self.threads = threads
        self.exact = exact
        chain = self._engine.chain
        # Made here, not by the first of several threads: kernels keep the tables' addresses.
        self._pinned = (chain.ahead, chain.back, chain.shrink)
        self._relinearisation: SwitchKey | None = None

    # --- keys and levels -------------------------------------------------------------------------

    def set_keys(self, relinearisation: list[Record], rotations: Mapping[int, list[Record]]) -> None:
        """Install switch keys; `rotations` maps a left rotation, 0 < step < n slots, to its key."""
        self._relinearisation = self.load_key(relinearisation, None) if relinearisation else None
        self._rotations = {step: self.load_key(key, step) for step, key in rotations.items()}

    def level(self, handle: Handle) -> int:
        """Rescales that remain."""
        return handle.level

    def scale(self, handle: Handle) -> float:
        """The handle's scale."""
        return handle.scale

    # --- key switching ---------------------------------------------------------------------------

    def relinearise(self, a: Handle) -> Handle:
        """Three polynomials to two; two stay as they are.

        Raises:
            InputError: when no relinearisation key was installed.
        """
        a = self.unpack(a)
        if a.size == 2:
            return a
        if a.size != 3:
            raise InputError(f"only three polynomials can be relinearised, got {a.size}")
        return self._switched(a, self._relinearisation_key(), 0)

    def _switched(self, a: Handle, key: SwitchKey, signs: int) -> Handle:
        """One key switch; for a rotation with its `signs`. SEAL's, bit for bit."""
        engine = self._engine
        out = engine.handle(2, a.level, a.scale, a.correction)
        if self.threads == 1:
            engine.switch_alone(key, a, out, signs)
        else:
            engine.do(engine.switching([key], [a], [out], signs))
        return out

    def _relinearised(
        self,
        handles: Sequence[Handle],
        stages: list[Stage],
        dropping: bool = False,
        room: Piece | None = None,
    ) -> list[Handle]:
        """All of one level; those of two polynomials stay. With `dropping` (CKKS, all of three) they are
        rescaled in one go. With `room` (`Engine.switch_room`) what they hold is overwritten.
        """
        level = handles[0].level
        prime = float(self.params.primes[level]) if dropping else 1.0
        outs, long, short = [], [], []
        for a in handles:
            out = a
            if a.size == 3:
                if room is not None:
                    out = Handle(a.block, a.at, 2, level, a.scale, a.correction)
                else:
                    out = self._engine.handle(2, level - dropping, a.scale / prime, a.correction)
                long.append(a)
                short.append(out)
            elif a.size != 2:
                raise InputError(f"only three polynomials can be relinearised, got {a.size}")
            outs.append(out)
        if long:
            keys = [self._relinearisation_key()] * len(long)
            stages.append(self._engine.switching(keys, long, short, dropping=dropping, room=room))
        return outs

    def rotate(self, a: Handle, steps: Sequence[int]) -> list[Handle]:
        """One ciphertext rotated left by each of `steps` slots (0 gives the ciphertext itself).

        Raises:
            InputError: three polynomials, or a step without a key.
        """
        a = self.unpack(a)
        keys = {step: self._rotation_key(step) for step in steps if step != 0}
        self._two_polynomials(a)
        if len(keys) > 1 and not self.exact:
            found = self._hoisted(a, keys)
        else:
            found = {step: self._switched(a, key, key.signs_at) for step, key in keys.items()}
        return [a if step == 0 else found[step] for step in steps]

    def _hoisted(self, a: Handle, keys: dict[int, SwitchKey]) -> dict[int, Handle]:
        """All rotations from one decomposition."""
        outs = [self._engine.handle(2, a.level, a.scale, a.correction) for _ in keys]
        self._engine.do(self._engine.switching(list(keys.values()), [a] * len(keys), outs))
        return dict(zip(keys, outs, strict=True))

    def rotate_sum(self, handles: Sequence[Handle], steps: Sequence[int]) -> Handle:
        """The sum of handles[k] rotated left by steps[k], with one division by the special prime for all.

        Raises:
            InputError: unequal lengths, levels or scales, three polynomials, or a step without a key.
        """
        if len(handles) != len(steps) or not handles:
            raise InputError(f"as many handles as steps are needed, got {len(handles)} and {len(steps)}")
        return self._rotated_sum([self.unpack(h) for h in handles], steps, [])

    def _rotated_sum(self, handles: Sequence[Handle], steps: Sequence[int], stages: list[Stage]) -> Handle:
        """`rotate_sum` of what the stages compute, which are done here."""
        engine, first = self._engine, handles[0]
        moved = [(h, self._rotation_key(s)) for h, s in zip(handles, steps, strict=True) if s != 0]
        still = [h for h, s in zip(handles, steps, strict=True) if s == 0]
        self._same_level(*handles)
        for h in handles:
            self._two_polynomials(h)
            if not math.isclose(h.scale, first.scale, rel_tol=SCALE_TOLERANCE):
                raise InputError(f"cannot add scales {first.scale} and {h.scale}")
        if self.exact or len(moved) < 2 or len({h.correction for h in handles}) > 1:
            engine.do(*stages)
            parts = [self._switched(h, key, key.signs_at) for h, key in moved] + still
        else:
            out = engine.handle(2, first.level, first.scale, first.correction)
            turned, keys = zip(*moved, strict=True)
            engine.do(*stages, engine.switching_sum(keys, turned, out, still[0] if still else None))
            parts = [out, *still[1:]]
        total = parts[0]
        for part in parts[1:]:
            total = self.add(total, part)
        return total

    def giant_steps(self, groups: Sequence[Group]) -> Handle:
        """Σ over groups (xs, ws, step) of rescale(relinearise(dot(xs, ws))) rotated left by `step`.

        The second half of a baby-step giant-step product in one call: its stages are handed to other
        threads once, and all rotations share one division by the special prime.

        Raises:
            InputError: as the single operations.
        """
        if not groups:
            raise InputError("a sum of giant steps needs at least one group")
        stages: list[Stage] = []
        products = self._sums([(xs, ws) for xs, ws, _ in groups], stages)
        parts = self._relinearised_rescaled(products, stages)
        return self._rotated_sum(parts, [step for _, _, step in groups], stages)

    def products(self, sums: Sequence[tuple[Sequence[Handle], Sequence[Handle]]]) -> list[Handle]:
        """relinearise(dot(xs, ws)) of each (xs, ws), all of one level, handed to other threads once.

        Raises:
            InputError: as the single operations, or several levels.
        """
        return self.merged_products(sums, 1)

    def merged_products(
        self, sums: Sequence[tuple[Sequence[Handle], Sequence[Handle]]], of: int
    ) -> list[Handle]:
        """`products`, and each `of` of them merged, handed to other threads once.

        Raises:
            InputError: as `products` and `merge`.
        """
        if not sums:
            return []
        stages: list[Stage] = []
        answers, each, room = list[Handle](), max(of, TOGETHER), None
        for k in range(0, len(sums), each):  # so that what is made for one answer stays in the caches
            found = self._sums(sums[k : k + each], stages)
            self._same_level(*found)
            room = room or self._engine.switch_room(min(len(sums), TOGETHER), found[0].level)
            for j in range(0, len(found), TOGETHER):
                found[j : j + TOGETHER] = self._relinearised(found[j : j + TOGETHER], stages, room=room)
            if of > 1:
                parts = [found[j : j + of] for j in range(0, len(found), of)]
                found = [self._merged(part, of, stages, room) for part in parts]
            answers += found
        self._engine.do(*stages)
        return answers

    def multiply_rescale(self, a: Handle, b: Handle) -> Handle:
        """rescale(relinearise(a · b)) of two ciphertexts, handed to other threads once.

        Raises:
            InputError: as the single operations.
        """
        first = self.unpack(a)
        second = first if a is b else self.unpack(b)
        self._same_level(first, second)
        self._two_by_two(first, second)
        product = self._product(first, second, 3)
        stages = [self._engine.multiplying(first, second, product)]
        (out,) = self._relinearised_rescaled([product], stages)
        self._engine.do(*stages)
        return out

    def relinearise_rescale(self, a: Handle) -> Handle:
        """rescale(relinearise(a)) of a product or a sum of them, for CKKS the same residues with fewer
        transforms.

        Raises:
            InputError: as the two operations.
        """
        stages: list[Stage] = []
        (out,) = self._relinearised_rescaled([self.unpack(a)], stages)
        self._engine.do(*stages)
        return out

    def _relinearised_rescaled(self, handles: Sequence[Handle], stages: list[Stage]) -> list[Handle]:
        self._same_level(*handles)
        if not self.params.plain_modulus and handles[0].level > 0 and all(a.size == 3 for a in handles):
            return self._relinearised(handles, stages, dropping=True)
        return self._rescaled(self._relinearised(handles, stages), stages)

    # --- levels ----------------------------------------------------------------------------------

    def rescale(self, a: Handle) -> Handle:
        """Drop the last prime and divide by it; for BGV the message stays, its correction factor changes.

        Raises:
            InputError: at level 0.
        """
        stages: list[Stage] = []
        (out,) = self._rescaled([self.unpack(a)], stages)
        self._engine.do(*stages)
        return out

    def _rescaled(self, handles: Sequence[Handle], stages: list[Stage]) -> list[Handle]:
        """All of one level."""
        engine, t, level = self._engine, self.params.plain_modulus, handles[0].level
        if level == 0:
            raise InputError("a handle at level 0 has no prime left to drop")
        factor = engine.chain.division(level, level).correction
        prime = 1.0 if t else float(self.params.primes[level])
        outs = [
            engine.handle(a.size, level - 1, a.scale / prime, a.correction * factor % t if t else 1)
            for a in handles
        ]
        stages.append(engine.dividing(handles, outs))
        return outs

    def mod_switch(self, a: Handle, level: int) -> Handle:
        """Drop primes down to `level`, the scale kept; BGV ciphertexts are divided, as in SEAL.

        Raises:
            InputError: a level above the handle's.
        """
        if not 0 <= level <= a.level:
            raise InputError(f"cannot switch from level {a.level} to level {level}")
        if level == a.level:
            return a
        a = self.unpack(a)
        if self.params.plain_modulus and not a.is_plain:
            return self.mod_switch(self.rescale(a), level)
        out, row = self._engine.handle(a.size, level, a.scale, a.correction), self._engine.row
        for p in range(a.size):
            source, target = a.at + p * (a.level + 1) * row, out.at + p * (level + 1) * row
            rows.copy(source, target, (level + 1) * self.params.ring)
        return out

    # --- checks ----------------------------------------------------------------------------------

    def _relinearisation_key(self) -> SwitchKey:
        if self._relinearisation is None:
            raise InputError("no relinearisation key was installed: call set_keys first")
        return self._relinearisation
