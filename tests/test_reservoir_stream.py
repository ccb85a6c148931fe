"""ReservoirStream: its five rules against cl_tutor's Reservoir and mutants of it, and what a reader can do with it."""

from __future__ import annotations

import inspect
import itertools
import textwrap

import numpy as np
import pytest
import torch
from browser import assert_bundle, assert_controls, assert_readable, run_node

from cl_tutor.methods import memory as module
from cl_tutor.methods.memory import Reservoir
from cl_tutor.widgets import ReservoirStream
from cl_tutor.widgets.reservoir_stream import RULES, inclusion

# what each rule makes of one line of Reservoir.add
LINE = "torch.rand(len(offers), generator=self.rng, dtype=torch.float64) * (offers + 1)"
DRAWS = {
    "reservoir": "self.us * (offers + 1)",
    "early": "self.us * offers",
    "late": "self.us * (offers + 2)",
    "always": "self.us * self.slots",
    "ring": "offers % self.slots",
}


def twin(rule: str) -> type[Reservoir]:
    """cl_tutor's own class, fed the numbers `us` in place of its generator's, with one expression replaced."""
    source = textwrap.dedent(inspect.getsource(Reservoir))
    assert source.count(LINE) == 1
    scope = dict(vars(module))
    exec("from __future__ import annotations\n" + source.replace(LINE, DRAWS[rule]), scope)
    return scope["Reservoir"]


TWINS = {rule: twin(rule) for rule in RULES}


def kept(rule: str, slots: int, us: list[float]) -> list[int]:
    memory = TWINS[rule](slots)
    memory.us = torch.tensor(us, dtype=torch.float64)
    memory.add(torch.arange(len(us)))
    return memory.rows()[0].tolist()


def counted(rule: str, slots: int, offers: int) -> list[float]:
    """The chance of each offer by counting: every draw of every offer once, through cl_tutor's class."""
    among = {"reservoir": 1, "early": 0, "late": 2}
    ways = [range(i + among[rule] if rule in among else slots) if i >= slots else range(1) for i in range(offers)]
    total, draws = np.zeros(offers), list(itertools.product(*ways))
    for js in draws:
        us = [(j + 0.5) / len(way) for j, way in zip(js, ways)]
        total[kept(rule, slots, us)] += 1
    return (total / len(draws)).tolist()


def mulberry(seed: int, n: int) -> list[float]:
    """mulberry32, written a second time."""
    out, wrap = [], 2**32
    for k in range(1, n + 1):
        a = (seed + k * 0x6D2B79F5) % wrap
        t = (a ^ a >> 15) * (a | 1) % wrap
        t ^= (t + (t ^ t >> 7) * (t | 61)) % wrap
        out.append((t ^ t >> 14) / wrap)
    return out


def test_the_rules_keep_what_python_keeps_and_as_often(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(2, 9), (5, 20), (7, 40)] * 7
    streams = [{"rule": rule, "M": M, "us": (us := rng.random(n).tolist()), "kept": kept(rule, M, us)}
               for rule in RULES for M, n in shapes]  # fmt: skip
    small = [(rule, M, n) for rule in RULES for M, n in [(2, 5), (3, 6), (3, 5)]]
    chances = [{"rule": rule, "M": M, "n": n, "p": counted(rule, M, n)} for rule, M, n in small]
    chances += [{"rule": r, "M": M, "n": n, "p": inclusion(r, M, n).tolist()} for r in RULES for M, n in shapes[:3]]
    numbers = [{"seed": seed, "numbers": mulberry(seed, 50)} for seed in (0, 1, 12345)]
    run_node("reservoir_stream", {"streams": streams, "chances": chances, "random": numbers}, 7, tmp_path)


@pytest.mark.parametrize("rule", RULES)
def test_the_chances_in_python_are_those_of_all_draws_counted(rule):
    for slots, offers in [(2, 5), (3, 6), (4, 6)]:
        assert inclusion(rule, slots, offers) == pytest.approx(counted(rule, slots, offers), abs=1e-12)


def test_one_bundle_holds_the_view_the_island_and_the_picture():
    assert_bundle(ReservoirStream(4, 12, seed=2), ReservoirStream(4, 12, seed=2))
    assert "E from" in ReservoirStream().picture().alt


def test_the_letters_are_shuffled_by_the_seed_and_nonsense_is_refused():
    answers = [ReservoirStream(seed=seed).answer for seed in range(20)]
    assert set(answers) == set("ABCDE")
    assert all(ReservoirStream(seed=s).rules["ABCDE".index(a)] == "reservoir" for s, a in enumerate(answers))
    for wrong in [(1, 20), (20, 20), (5, 41)]:
        with pytest.raises(ValueError, match=f"not {wrong[0]} slots and {wrong[1]} offers"):
            ReservoirStream(*wrong)


# ------------------------------------------------------------------------------------------------------ in the browser


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).press("Enter")


def note(page, words: str):
    """Words to see; what a screen reader hears stands elsewhere."""
    return page.locator("p.clt-note", has_text=words)


def slots_shown(page) -> list[int]:
    """The numbers in the slots: the texts after those of the offers, and the words 'offers' and 'slots'."""
    texts = page.get_by_role("group", name="The stream above").locator("text").all_text_contents()
    return [int(text) - 1 for text in texts[-5:] if text]


def test_offer_by_offer_the_slots_hold_what_python_keeps(open_island):
    widget = ReservoirStream()
    page, us = open_island(widget), mulberry(0, 13)
    for _ in range(13):
        press(page, "next offer")
    for letter, rule in zip("ABCDE", widget.rules):
        press(page, letter)
        assert slots_shown(page) == kept(rule, 5, us)
    assert note(page, "No stream has ended yet").is_visible()


def test_ten_thousand_streams_tell_the_reservoir_from_its_neighbours(open_island):
    widget = ReservoirStream()
    page = open_island(widget)
    press(page, "10,000 streams")
    found = {}
    for letter in "ABCDE":
        press(page, letter)
        words = note(page, "10,000 streams:").inner_text()
        found[letter] = int(words.split(": ")[1].split(" of ")[0])
    assert min(found, key=found.get) == widget.answer and found[widget.answer] <= 3
    assert all(count > 9 for letter, count in found.items() if letter != widget.answer)


def test_a_wrong_pick_is_told_what_to_look_at_and_the_right_one_reveals_all(open_island):
    widget = ReservoirStream(seed=4)
    page, wrong = open_island(widget), "ABCDE"[widget.rules.index("early")]
    press(page, wrong)
    press(page, f"{wrong} is the reservoir")
    assert note(page, f"Not {wrong}: its first 5 offers are kept less often").is_visible()
    assert page.locator("li").count() == 1
    press(page, widget.answer)
    press(page, f"{widget.answer} is the reservoir")
    assert note(page, "M/n = 0.250").is_visible() and page.locator("li").count() == 5


def test_fewer_slots_start_the_count_again(open_island):
    page = open_island(ReservoirStream())
    press(page, "100 streams")
    page.get_by_role("slider", name="slots M").press("ArrowLeft")
    assert note(page, "No stream has ended yet").is_visible()
    press(page, "100 streams")
    press(page, "C")
    assert page.locator("text", has_text="M/n = 0.20").is_visible()


def test_play_moves_offer_by_offer_or_at_once_where_motion_is_unwelcome(open_island):
    page = open_island(ReservoirStream())
    page.clock.install()  # time passes when the test says so
    press(page, "play")
    page.clock.run_for(3 * 450)
    assert note(page, "Offer 3 takes slot 3").is_visible()
    press(page, "pause")
    page.clock.run_for(60_000)
    assert note(page, "Offer 3 takes slot 3").is_visible() and note(page, "No stream has ended yet").is_visible()
    calm = open_island(ReservoirStream(), motion="reduce")
    press(calm, "play")
    assert note(calm, "1 stream: ").is_visible()


@pytest.mark.parametrize("width", [400, 1280])
def test_every_control_can_be_found_and_hit(open_island, width):
    assert_controls(open_island(ReservoirStream(), width=width), "Reservoir")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(open_island, scheme):
    page = open_island(ReservoirStream(), scheme=scheme)
    press(page, "100 streams")
    press(page, "A is the reservoir")
    assert_readable(page)
