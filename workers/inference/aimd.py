"""The arithmetic of congestion control, without a clock or a loop: what a server bears is found by asking for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

START: Final = 4
CEILING: Final = 256
#: What remains of the limit after a timeout, which says that something is wrong but not how much.
BACKOFF: Final = 0.7
#: Latency this many times its minimum, and `SLACK` seconds above it, means that requests queue up.
TOLERANCE: Final = 1.5
SLACK: Final = 0.010
#: More throughput than this, against the best seen, is worth a longer queue; where the limit has doubled, it must be
#: more: some gain comes from crowding out the other processes.
GAIN: Final = 1.2
DOUBLED_GAIN: Final = 1.5
#: After this many rounds on hold the minimum may be out of date: it is measured anew at half the limit.
HOLD_ROUNDS: Final = 50
#: After an overload the limit rests for so many answers and so many seconds: what is refused costs a place for
#: about 0.05 s, and may be no more than one request in a hundred.
REST_ANSWERS: Final = 32
REST_SECONDS: Final = 0.125
#: The longest rest, in multiples of the first; it doubles whenever asking for more was in vain.
LONGEST_REST: Final = 8
#: A server that asks for a pause with each refusal is tested this many pauses apart.
PAUSES: Final = 50
#: After this many rounds of growth without a refusal there is room again, and the next rest is a short one.
FREE_ROUNDS: Final = 4


@dataclass(slots=True)
class Aimd:
    """How many requests one process may have in flight; times are seconds of one monotonic clock.

    A round is as many requests sent and answered as the limit was at its beginning. The limit grows by one an answer
    until the first sign of congestion, and then once a round: but only where it was in use, and not while requests
    queue up without more throughput.

    A refused request tells exactly how much was too much: the limit becomes what was in flight without it. There it
    rests, and then asks for one more; where that is borne, for two more, four more and so on.
    """

    ceiling: int = CEILING
    limit: float = START
    slow_start: bool = True
    #: Refused requests and timeouts, ever.
    overloads: int = 0
    timeouts: int = 0
    #: Requests sent before this moment belong to the episode that was already answered with a decrease.
    decreased_at: float = float("-inf")
    #: How long the limit rests after the next overload, in multiples; and when the rest under way ends.
    rest: int = 1
    rested_at: float = float("-inf")
    answers_to_rest: int = 0
    #: By how much the next growth is, and the rounds of growth since the last overload.
    step: float = 1.0
    grown: int = 0
    round_started: float = float("-inf")
    #: The limit when the round began.
    round_size: int = START
    round_answers: int = 0
    #: Those of the answers whose requests were sent in this round, and the sum of their latencies.
    round_measured: int = 0
    round_latency: float = 0.0
    #: Refusals of requests sent in this round.
    round_refused: int = 0
    #: The most requests in flight that an answer of this round has seen.
    round_peak: int = 0
    least_latency: float = float("inf")
    best_throughput: float = 0.0
    rounds_on_hold: int = 0

    def __post_init__(self) -> None:
        self.limit = min(self.limit, self.ceiling)
        self.round_size = int(self.limit)

    def succeeded(self, now: float, sent_at: float, in_flight: int) -> None:
        """Count an answer; `in_flight` includes it."""
        if self.round_answers == 0 and self.round_started == float("-inf"):
            self.round_started = sent_at
        self.round_answers += 1
        if sent_at < self.round_started:
            return  # it waited in the queue of the limit before
        self.round_measured += 1
        self.round_latency += now - sent_at
        if in_flight > self.round_peak:
            self.round_peak = in_flight
        if self.slow_start and self.limit < 2 * self.round_peak:
            self.limit = min(self.ceiling, self.limit + 1)
        if self.round_measured + self.round_refused >= self.round_size:
            self.end_round(now)

    def overloaded(self, now: float, sent_at: float, in_flight: int, pause: float = 0.0) -> None:
        """Count a refusal of a request with which `in_flight` were under way; the server asks for `pause` seconds."""
        self.overloads += 1
        self.limit = max(1.0, min(self.limit, in_flight - 1))
        if sent_at > self.decreased_at:
            self.begin_rest(now, pause)
        if sent_at >= self.round_started:
            self.round_refused += 1
            if self.round_measured + self.round_refused >= self.round_size:
                self.end_round(now)

    def timed_out(self, now: float, sent_at: float) -> None:
        """Shrink, once for all the requests that were in flight together."""
        self.timeouts += 1
        if sent_at <= self.decreased_at:
            return
        self.limit = max(1.0, self.limit * BACKOFF)
        self.begin_rest(now, 0.0)
        self.start_round(now)

    def begin_rest(self, now: float, pause: float) -> None:
        """Ask for no more for a while; longer, where asking has just been in vain."""
        if self.grown:
            self.rest = 1 if self.grown >= FREE_ROUNDS else min(2 * self.rest, LONGEST_REST)
        self.slow_start = False
        self.decreased_at = now
        self.step, self.grown = 1.0, 0
        self.rested_at = now + max(REST_SECONDS * self.rest, PAUSES * pause)
        self.answers_to_rest = REST_ANSWERS * self.rest

    def end_round(self, now: float) -> None:
        """Judge the round that has just been answered, and grow or hold."""
        self.answers_to_rest -= self.round_answers
        if self.round_refused:
            # Refusals that came late tell little one by one: there, the share that was borne is the measure.
            borne = self.round_size * self.round_measured / (self.round_measured + self.round_refused)
            self.limit = max(1.0, min(self.limit, borne))
        else:
            self.judge(now)
        self.start_round(now)

    def judge(self, now: float) -> None:
        """Grow, unless latency says that it would only make the queue longer."""
        latency = self.round_latency / self.round_measured
        throughput = self.round_answers / max(now - self.round_started, 1e-9)
        self.least_latency = min(self.least_latency, latency)
        queueing = latency > self.least_latency * TOLERANCE and latency > self.least_latency + SLACK
        gained = throughput > self.best_throughput * (DOUBLED_GAIN if self.slow_start else GAIN)
        self.best_throughput = max(self.best_throughput, throughput)
        if queueing and not gained:
            self.hold()
        elif self.round_peak >= int(self.limit) and self.answers_to_rest <= 0 and now >= self.rested_at:
            self.grow()

    def grow(self) -> None:
        """Ask for more; in slow start, the answers have done so one by one."""
        if self.slow_start:
            return
        self.limit = min(self.ceiling, self.limit + self.step)
        self.grown += 1
        if self.overloads:
            self.step = min(2 * self.step, max(1.0, self.limit / 2))

    def hold(self) -> None:
        """Undo the doubling that went too far; later stay, and once in a while ask whether the server has changed."""
        self.rounds_on_hold += 1
        self.step = 1.0
        if self.slow_start or self.rounds_on_hold >= HOLD_ROUNDS:
            self.limit = max(1.0, self.round_size / 2)  # the limit itself has grown while the round was answered
            self.slow_start = False
        if self.rounds_on_hold >= HOLD_ROUNDS:
            self.forget()

    def forget(self) -> None:
        """Learn latency and throughput from the beginning, and grow as fast as then."""
        self.rounds_on_hold = 0
        self.least_latency = float("inf")
        self.best_throughput = 0.0
        self.slow_start = True

    def start_round(self, now: float) -> None:
        """Begin to count anew."""
        self.round_started = now
        self.round_size = int(self.limit)
        self.round_answers = 0
        self.round_measured = 0
        self.round_latency = 0.0
        self.round_refused = 0
        self.round_peak = 0
