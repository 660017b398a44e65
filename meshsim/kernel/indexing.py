"""The memory's arrays as compiled code sees them: an index counts from the front.

Rule: a row index is never negative; absent is a named code that is tested before it is used.
numba otherwise asks at every access whether to count from the end, as Python does, which is a
fifth of the kernel's time.  `RowsType` is numba's array type in everything else; its items are
those of the plain array at an unsigned index.  With ``NUMBA_BOUNDSCHECK=1`` a negative index
is an error.
"""

from __future__ import annotations

import operator
from typing import Any

from numba.core import types as numba_types
from numba.core.typing import signature
from numba.extending import lower_builtin, models, register_model

__all__ = ["RowsType"]

#: Most of numba's types have none themselves.
types: Any = numba_types


class RowsType(types.Array):
    """An array whose indices are not negative."""

    def __init__(self, dtype: Any, ndim: int, layout: str) -> None:
        super().__init__(dtype, ndim, layout, name=f"Rows({dtype}, {ndim}d, {layout})")

    def copy(
        self, dtype: Any = None, ndim: Any = None, layout: Any = None, readonly: Any = None
    ) -> RowsType:
        """Return the type of a field or a part of these rows."""
        return RowsType(
            self.dtype if dtype is None else dtype,
            self.ndim if ndim is None else ndim,
            layout or self.layout,
        )

    @property
    def plain(self) -> Any:
        """Numba's own type of the same array."""
        return types.Array(self.dtype, self.ndim, self.layout, aligned=self.aligned)


register_model(RowsType)(models.ArrayModel)


def _unsigned(context: Any, builder: Any, kind: Any, index: Any) -> tuple[Any, Any]:
    """Return type and value of an index, or of a tuple of them, without a sign."""
    if not isinstance(kind, types.BaseTuple):
        return types.uintp, context.cast(builder, index, kind, types.intp)
    parts = [
        context.cast(builder, builder.extract_value(index, axis), part, types.intp)
        for axis, part in enumerate(kind)
    ]
    unsigned = types.UniTuple(types.uintp, len(parts))
    return unsigned, context.make_tuple(builder, unsigned, parts)


@lower_builtin(operator.getitem, RowsType, types.Integer)
@lower_builtin(operator.getitem, RowsType, types.BaseTuple)
def _getitem(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
    rows, kind = call.args
    kind, index = _unsigned(context, builder, kind, arguments[1])
    result = call.return_type
    result = result.plain if isinstance(result, RowsType) else result
    get = context.get_function(operator.getitem, signature(result, rows.plain, kind))
    return get(builder, (arguments[0], index))


@lower_builtin(operator.setitem, RowsType, types.Integer, types.Any)
@lower_builtin(operator.setitem, RowsType, types.BaseTuple, types.Any)
def _setitem(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
    rows, kind, value = call.args
    kind, index = _unsigned(context, builder, kind, arguments[1])
    put = context.get_function(operator.setitem, signature(types.none, rows.plain, kind, value))
    return put(builder, (arguments[0], index, arguments[2]))
