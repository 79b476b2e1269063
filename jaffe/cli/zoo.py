"""jaffe zoo"""

from __future__ import annotations

from typing import Annotated

import typer


def zoo(
    name: Annotated[str, typer.Argument(help="A net, for its card; or a pattern, a task or part of a name, for a list.",
                                        show_default=False)] = "",
    fetch: Annotated[bool, typer.Option("--fetch", help="Download the net's published weights, and print their path."
                                        )] = False,
) -> None:
    """List the nets of the zoo, or say what is known of one."""
    from jaffe.netdef.errors import JaffeError, suggest
    from jaffe.zoo import card
    from jaffe.zoo import list as names_of
    from jaffe.zoo.cards import CARDS
    from jaffe.zoo.catalogue import weights_file
    from jaffe.zoo.described import counted, recipes_of
    from jaffe.zoo.weights import WEIGHTS

    if fetch:
        print(weights_file(card(name).name))
        return
    if name in CARDS:
        print(card(name))
        return
    found = names_of(name)
    if not found:
        raise JaffeError(f"no net of the zoo has {name!r} as its name, task or a part of it{suggest(name, CARDS)}")
    nets = [card(one) for one in found]
    rows = [("net", "task", "parameters", "recipes", "weights")]
    rows += [(net.name, net.task, f"{counted(net).params:,}", " ".join(recipes_of(net)),
              " ".join(weights.name for weights in WEIGHTS.get(net.name, ()))) for net in nets]
    name_width, task_width, _, recipes_width, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, task, params, recipes, weights in rows:
        print(f"{name:{name_width}}  {task:{task_width}}  {params:>11}  {recipes:{recipes_width}}  {weights}".rstrip())
