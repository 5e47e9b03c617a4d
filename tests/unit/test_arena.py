"""The room for pixels that processes share: nobody is given what another one holds, and none of it is ever lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tasks.engines.dolphin.arena import Arena, ArenaClosed, Place, View

UNIT = 4096
UNITS = 16


@pytest.fixture
def arena() -> Iterator[Arena]:
    with Arena(UNITS * UNIT) as made:
        yield made


def room(place: Place) -> tuple[int, int]:
    """First byte, and the first one after: whole units are given."""
    return place.offset, place.offset + max(1, -(-place.height * place.width * 3 // UNIT)) * UNIT


def of_units(count: int) -> tuple[int, int]:
    """Height and width of the largest image in so many units."""
    return 1, count * UNIT // 3


def at_once(arena: Arena, count: int) -> Place:
    """Take `count` units; an error, not a test that hangs, where it would have to wait."""

    def wait() -> None:
        raise AssertionError(f"there is no room for {count} units")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arena._changed, "wait", wait)
        return arena.take(*of_units(count))


class Uses(RuleBasedStateMachine):
    """Takes what fits, gives back in any order, some of it again much later."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(UNITS * UNIT)
        self.held: list[Place] = []
        self.returned: list[Place] = []

    def largest(self) -> int:
        """Units of the largest gap."""
        taken = [False] * UNITS
        for start, end in map(room, self.held):
            taken[start // UNIT : end // UNIT] = [True] * ((end - start) // UNIT)
        return max(map(len, "".join("x" if unit else "." for unit in taken).split("x")))

    @precondition(lambda self: self.largest() > 0)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, self.largest()))
        place = at_once(self.arena, count)
        start, end = room(place)
        assert 0 <= start < end <= UNITS * UNIT
        assert end - start == count * UNIT
        assert all(end <= other[0] or other[1] <= start for other in map(room, self.held))
        self.held.append(place)
        self.arena.pixels(place)[:] = place.ticket % 256

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        place = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.arena.give_back(place)
        self.returned.append(place)

    @precondition(lambda self: self.returned)
    @rule(data=st.data())
    def give_back_again(self, data: st.DataObject) -> None:
        self.arena.give_back(data.draw(st.sampled_from(self.returned)))

    @rule()
    def give_back_what_was_never_given(self) -> None:
        self.arena.give_back(Place(0, *of_units(UNITS)))

    @invariant()
    def used_is_what_is_held(self) -> None:
        assert self.arena.used == sum(end - start for start, end in map(room, self.held))

    @invariant()
    def pixels_are_their_owners(self) -> None:
        for place in self.held:
            assert (self.arena.pixels(place) == place.ticket % 256).all()

    def teardown(self) -> None:
        for place in self.held:
            self.arena.give_back(place)
        assert at_once(self.arena, UNITS).offset == 0
        self.arena.close()


TestUses = Uses.TestCase
TestUses.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_giving_back_twice_frees_nothing_of_who_took_the_room(arena: Arena) -> None:
    first = arena.take(*of_units(4))
    arena.give_back(first)
    second = arena.take(*of_units(4))
    assert second[:3] == first[:3]
    arena.give_back(first)
    third = arena.take(*of_units(4))
    assert (second.offset, third.offset) == (0, 4 * UNIT)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0)])
def test_neighbours_merge(arena: Arena, order: tuple[int, ...]) -> None:
    places = [arena.take(*of_units(count)) for count in (5, 1, 10)]
    for index in order:
        arena.give_back(places[index])
    assert arena.used == 0
    assert at_once(arena, UNITS).offset == 0


def test_an_image_of_nothing_takes_a_unit(arena: Arena) -> None:
    place = arena.take(0, 0)
    assert arena.used == UNIT
    assert arena.pixels(place).shape == (0, 0, 3)


def test_a_size_is_rounded_up_to_units() -> None:
    with Arena(1) as arena:
        assert arena.size == UNIT


def test_what_could_never_fit_is_refused_at_once(arena: Arena) -> None:
    with pytest.raises(ValueError, match="an image of 21846 x 1 pixels is larger than the arena"):
        arena.take(1, UNITS * UNIT // 3 + 1)


def waits(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """A thread that is waiting in `work`, and where its result (or error) will be."""
    results: list[object] = []

    def body() -> None:
        try:
            results.append(work())
        except ArenaClosed as error:
            results.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    time.sleep(0.05)
    assert not results
    return thread, results


def test_who_waits_is_woken_when_there_is_room(arena: Arena) -> None:
    held = [arena.take(*of_units(count)) for count in (8, 4, 4)]
    thread, results = waits(lambda: arena.take(*of_units(8)))
    arena.give_back(held[1])
    time.sleep(0.05)
    assert not results, "4 units are not enough"
    arena.give_back(held[2])
    thread.join(5)
    (place,) = results
    assert isinstance(place, Place)
    assert place.offset == 8 * UNIT


def test_all_who_fit_are_woken(arena: Arena) -> None:
    held = arena.take(*of_units(UNITS))
    waiting = [waits(lambda: arena.take(*of_units(4))) for _ in range(4)]
    arena.give_back(held)
    for thread, _ in waiting:
        thread.join(5)
    offsets = [place.offset for _, results in waiting for place in results if isinstance(place, Place)]
    assert sorted(offsets) == [0, 4 * UNIT, 8 * UNIT, 12 * UNIT]


def test_closing_wakes_who_waits() -> None:
    arena = Arena(UNIT)
    held = arena.take(*of_units(1))
    waiting = [waits(lambda: arena.take(1, 1)), waits(lambda: arena.put(np.zeros((1, 1, 3), np.uint8)))]
    arena.close()
    for thread, results in waiting:
        thread.join(5)
        assert [type(result) for result in results] == [ArenaClosed]
    arena.close()  # a second time does nothing
    arena.give_back(held)
    with pytest.raises(ArenaClosed):
        arena.take(1, 1)


def test_pixels_are_seen_through_the_descriptor(arena: Arena) -> None:
    view = View(os.dup(arena.descriptor))
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    arena.take(*of_units(1))
    place = arena.put(pixels)
    assert place.offset == UNIT
    assert (view.pixels(place) == pixels).all()
    view.pixels(place)[0, 0] = 255
    assert (arena.pixels(place)[0, 0] == 255).all()


@pytest.mark.parametrize(
    "place",
    [
        Place(-1, 1, 1),
        Place(0, -1, 1),
        Place(0, -1, -1),
        Place(0, 1, -1),
        Place(0, 1, UNITS * UNIT // 3 + 1),
        Place(UNITS * UNIT - 2, 1, 1),
        Place(UNITS * UNIT, 1, 1),
        Place(1 << 62, 1, 1),
        Place(0, 1 << 40, 1 << 40),
    ],
)
def test_places_outside_are_refused(arena: Arena, place: Place) -> None:
    with pytest.raises(ValueError, match="a place outside of the arena"):
        arena.pixels(place)


def test_the_last_pixel_is_inside(arena: Arena) -> None:
    assert arena.pixels(Place(UNITS * UNIT - 3, 1, 1)).shape == (1, 1, 3)


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 1), (4, 4), (4,), (1, 4, 4, 3)])
def test_what_is_no_image_takes_no_room(arena: Arena, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"no image: \(.*\)"):
        arena.put(np.zeros(shape, np.uint8))
    assert arena.used == 0
