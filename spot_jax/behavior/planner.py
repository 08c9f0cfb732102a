"""Ways through a maze, cell by cell."""

from collections import deque
from typing import Any

Cell = tuple[int, int]


def free_cells(maze_map: list[list[Any]]) -> list[Cell]:
    """The cells (row, column) that are no wall, row by row."""
    return [(i, j) for i, row in enumerate(maze_map) for j, cell in enumerate(row) if cell != 1]


def plan(maze_map: list[list[Any]], start: Cell, goal: Cell) -> list[Cell]:
    """A shortest path of free cells from `start` to `goal`, both included."""
    path, back = [goal], towards(maze_map, start)
    while path[-1] != start:
        path.append(back[path[-1]])
    return path[::-1]


def towards(maze_map: list[list[Any]], goal: Cell) -> dict[Cell, Cell]:
    """The next cell on a shortest path to `goal`, by breadth-first search, from every cell; of the goal's, itself.

    Walls beside free cells have one, too: for whoever touches them.
    """
    following: dict[Cell, Cell] = {goal: goal}
    queue = deque([goal])
    while queue:
        row, column = queue.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if cell not in following:
                following[cell] = (row, column)
                if maze_map[cell[0]][cell[1]] != 1:
                    queue.append(cell)
    return following
