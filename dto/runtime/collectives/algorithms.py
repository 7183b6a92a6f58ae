"""The algorithms: pure functions from a rank and its group to the steps that this rank takes.

`members` are the ranks that take part, `me` is the position of this rank among them, and `span`
are the elements of the tensor that are worked on. n is len(members), S the bytes of the span.
Every element is added up in one place and copied from there, so all ranks end with equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from dto.runtime.collectives.schedule import Move, Schedule, Span, Step, split
from dto.runtime.topology import members_by_node

Members = Sequence[int]


def ring_reduce_scatter(me: int, members: Members, span: Span) -> Schedule:
    """Pieces travel around the ring and grow; this rank ends with the sum of piece `me`.

    Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
    JPDC 69(2), 2009. n-1 steps; each rank sends (n-1)/n S, the least that is possible.
    """
    n, pieces = len(members), split(span, len(members))
    after, before = members[(me + 1) % n], members[me - 1]
    return [
        Step(
            send=Move(after, *pieces[(me - 1 - k) % n]),
            receive=Move(before, *pieces[(me - 2 - k) % n]),
            adds=True,
        )
        for k in range(n - 1)
    ]


def ring_all_gather(me: int, members: Members, span: Span) -> Schedule:
    """Piece `me` of every rank travels once around the ring. n-1 steps, (n-1)/n S sent."""
    return gather_pieces(me, members, split(span, len(members)))


def gather_pieces(me: int, members: Members, pieces: Sequence[Span]) -> Schedule:
    """The all-gather of a ring, for pieces of any lengths."""
    n = len(members)
    after, before = members[(me + 1) % n], members[me - 1]
    return [
        Step(
            send=Move(after, *pieces[(me - k) % n]),
            receive=Move(before, *pieces[(me - 1 - k) % n]),
        )
        for k in range(n - 1)
    ]


def ring(me: int, members: Members, span: Span) -> Schedule:
    """All-reduce = reduce-scatter, then all-gather: 2(n-1) steps, 2(n-1)/n S sent by each rank.

    Nobody sends less; but the steps grow with n, so small tensors are better off elsewhere.
    """
    return ring_reduce_scatter(me, members, span) + ring_all_gather(me, members, span)


def tree_reduce(me: int, members: Members, span: Span) -> Schedule:
    """The first member ends with the sum. In round k, whoever has bit k set hands over and rests.

    The binomial tree of Thakur, Rabenseifner and Gropp, "Optimization of collective communication
    operations in MPICH", IJHPCA 19(1), 2005. ceil(log2 n) rounds.
    """
    steps: Schedule = []
    distance = 1
    while distance < len(members):
        if me & distance:
            return [*steps, Step(send=Move(members[me - distance], *span))]
        if me + distance < len(members):
            steps.append(Step(receive=Move(members[me + distance], *span), adds=True))
        distance *= 2
    return steps


def tree_broadcast(me: int, members: Members, span: Span, root: int = 0) -> Schedule:
    """The same tree the other way round: everybody gets what the member at `root` has."""
    n = len(members)
    place = (me - root) % n  # the root stands at 0
    distance = 1
    while distance < n and not place & distance:
        distance *= 2
    steps: Schedule = []
    if place:
        steps.append(Step(receive=Move(members[(place - distance + root) % n], *span)))
    while distance > 1:
        distance //= 2
        if place + distance < n:
            steps.append(Step(send=Move(members[(place + distance + root) % n], *span)))
    return steps


def tree(me: int, members: Members, span: Span) -> Schedule:
    """All-reduce = reduce to the first member, then broadcast: 2 ceil(log2 n) rounds of S.

    Few messages, so it suits small tensors; the first member's link carries the most.
    """
    return tree_reduce(me, members, span) + tree_broadcast(me, members, span)


def halving_doubling(me: int, members: Members, span: Span) -> Schedule:
    """All-reduce by exchanging halves of halves with partners at distance 1, 2, 4, and back.

    Rabenseifner, "Optimization of collective reduction operations", ICCS 2004. With p the largest
    power of two up to n: 2 log2 p rounds, 2(p-1)/p S sent. The n-p members too many give their
    tensor to a neighbour before and get the result after, which costs them 2 rounds of S.
    """
    n = len(members)
    p = 1 << (n.bit_length() - 1)
    extra = n - p
    if me < 2 * extra and me % 2:
        neighbour = Move(members[me - 1], *span)
        return [Step(send=neighbour), Step(receive=neighbour)]
    place = me // 2 if me < 2 * extra else me - extra
    core = [members[2 * j if j < extra else j + extra] for j in range(p)]
    halving: Schedule = []
    doubling: Schedule = []
    part, distance = span, 1
    while distance < p:
        partner, halves = core[place ^ distance], split(part, 2)
        keeps = 1 if place & distance else 0
        mine, theirs = Move(partner, *halves[keeps]), Move(partner, *halves[1 - keeps])
        halving.append(Step(send=theirs, receive=mine, adds=True))
        doubling.insert(0, Step(send=mine, receive=theirs))
        part = halves[keeps]
        distance *= 2
    if me < 2 * extra:
        neighbour = Move(members[me + 1], *span)
        return [Step(receive=neighbour, adds=True), *halving, *doubling, Step(send=neighbour)]
    return halving + doubling


def hierarchical(rank: int, nodes: Sequence[str], span: Span) -> Schedule:
    """All-reduce inside nodes first; `nodes` names the node of each rank.

    Goyal et al., "Accurate, large minibatch SGD", 2017, section 4, and Horovod's hierarchical
    all-reduce. With g ranks on each of m nodes: a reduce-scatter inside the node, m rings of
    which each carries 1/g of the tensor between nodes, an all-gather inside. Where nodes have
    unlike numbers of ranks, the first rank of each node speaks for it instead.
    """
    groups = members_by_node(nodes)
    mine = next(group for group in groups if rank in group)
    me, number = mine.index(rank), groups.index(mine)
    if len({len(group) for group in groups}) == 1:
        piece = split(span, len(mine))[me]
        across = [group[me] for group in groups]
        return [
            *ring_reduce_scatter(me, mine, span),
            *ring(number, across, piece),
            *ring_all_gather(me, mine, span),
        ]
    leaders = [group[0] for group in groups]
    across_steps = ring(number, leaders, span) if me == 0 else []
    return [*tree_reduce(me, mine, span), *across_steps, *tree_broadcast(me, mine, span)]
