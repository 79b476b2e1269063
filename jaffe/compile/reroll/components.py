"""Strongly connected components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def components(nodes: Iterable[int], successors: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """The strongly connected components of a directed graph, each before those that lead to it. Not recursive: graphs
    are deep. Source: Tarjan 1972, "Depth-first search and linear graph algorithms"."""
    order: dict[int, int] = {}
    lowest: dict[int, int] = {}
    on_stack: set[int] = set()
    stack: list[int] = []
    found: list[list[int]] = []
    for root in nodes:
        if root in order:
            continue
        order[root] = lowest[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        walk = [(root, iter(successors.get(root, ())))]
        while walk:
            node, rest = walk[-1]
            for following in rest:
                if following not in order:
                    order[following] = lowest[following] = len(order)
                    stack.append(following)
                    on_stack.add(following)
                    walk.append((following, iter(successors.get(following, ()))))
                    break
                if following in on_stack:
                    lowest[node] = min(lowest[node], order[following])
            else:
                walk.pop()
                if walk:
                    lowest[walk[-1][0]] = min(lowest[walk[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    component: list[int] = []
                    while not component or component[-1] != node:
                        component.append(stack.pop())
                        on_stack.discard(component[-1])
                    found.append(component)
    return found
