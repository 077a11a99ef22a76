"""Which of the waiting rows are computed next."""

from __future__ import annotations

from collections.abc import Sequence


def rows_of_next_pack(waiting: Sequence[Sequence[int]], budget: int) -> list[int]:
    """How many of each request's next rows go into a pack.

    The requests take turns, the oldest first: so one with many rows holds up nobody, and the oldest gets ahead with
    each pack. What does not fit into the rest of the budget waits, and shorter rows of later requests fill it.

    Args:
        waiting: for each request, the oldest first, the tokens of the rows that are left of it, at least one.
        budget: tokens in a pack; a first row that is longer is a pack of its own.

    Returns:
        A number for each request; at least one row is taken if there is any.
    """
    taken = [0] * len(waiting)
    left = budget
    open_requests = list(range(len(waiting)))
    while open_requests and left > 0:
        still_open = []
        for number in open_requests:
            tokens = waiting[number][taken[number]]
            if tokens <= left or left == budget:
                taken[number] += 1
                left -= tokens
                if taken[number] < len(waiting[number]):
                    still_open.append(number)
            if left <= 0:
                break
        open_requests = still_open
    return taken
