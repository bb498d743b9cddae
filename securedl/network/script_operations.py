"""Operations of torch that a client's script may have: a list, since no schema tells all that one may do.

`_reshape_alias` reads any memory, `_sparse_coo_tensor_unsafe` writes it, `from_file` maps any file; so what
is not named here, neither element by element nor one of torch's core operations, is not done.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from securedl.errors import InputError

_ATEN = re.compile(r"aten\.([A-Za-z0-9_]+)\.([A-Za-z0-9_]+)")
#: Core operations that see more of the memory than their arguments, or leave some unwritten.
_NEVER = frozenset(
    ["as_strided", "empty", "empty_strided", "empty_like", "new_empty", "resize", "copy", "set_", "to_dense"]
)
#: Marked as random, which it is with dropout only; that is none in evaluation.
_NOT_RANDOM = frozenset(["aten.scaled_dot_product_attention.default"])
#: Beside core and element-by-element operations.
_NAMES = """
    T _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_tensor_metadata _batch_norm_impl_index
    _cdist_forward _convolution _log_softmax _native_batch_norm_legit_no_training _softmax _to_copy
    _unsafe_view _upsample_nearest_exact1d _upsample_nearest_exact2d _weight_norm adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    addbmm addcdiv addcmul addmm addmv alias all amax amin any arange argmax argmin argsort atleast_1d
    atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear block_diag bmm
    broadcast_tensors broadcast_to bucketize cat cdist celu chain_matmul channel_shuffle chunk clone
    column_stack concat concatenate constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d convolution cosine_similarity cross cummax cummin cumprod cumsum
    detach diag diag_embed diagonal diff dist dot dropout dsplit dstack einsum elu embedding expand
    expand_as eye feature_dropout fft_fft fft_fft2 fft_fftn fft_ifft fft_ifft2 fft_irfft fft_rfft
    fft_rfft2 flatten flip fliplr flipud fold full full_like gather gelu getitem glu grid_sampler
    group_norm gru hardshrink hardsigmoid hardswish hardtanh hsplit hstack im2col imag index index_add
    index_put index_select inner instance_norm is_nonzero kron kthvalue layer_norm leaky_relu lerp
    lift_fresh_copy linalg_cross linalg_det linalg_inv linalg_matrix_norm linalg_multi_dot linalg_norm
    linalg_solve linalg_vector_norm linear linspace log_sigmoid log_softmax logcumsumexp logspace
    logsumexp lstm mH mT masked_fill masked_scatter masked_select matmul matrix_power max max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices mean
    median meshgrid min mish mm mode moveaxis movedim msort multi_dot mv nanmean nansum narrow
    native_batch_norm native_dropout native_group_norm native_layer_norm new_full new_ones new_zeros
    norm normalize numpy_T one_hot ones ones_like outer pad pairwise_distance permute pinverse
    pixel_shuffle pixel_unshuffle prelu prod ravel real reflection_pad1d reflection_pad2d
    reflection_pad3d relu6 renorm repeat repeat_interleave replication_pad1d replication_pad2d
    replication_pad3d reshape reshape_as rms_norm rnn_relu rnn_tanh roll rot90 scalar_tensor
    scaled_dot_product_attention scatter scatter_add scatter_reduce select select_scatter selu silu
    slice slice_scatter softmax softmin softplus softshrink sort special_softmax split split_with_sizes
    squeeze stack std std_mean sum swapaxes swapdims sym_numel sym_size t take take_along_dim
    tensor_split tensordot threshold tile to topk trace transpose tril triu type_as unbind unflatten
    unfold unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d vander var var_mean view view_as vsplit
    vstack where zeros zeros_like
"""
ALLOWED = frozenset(_NAMES.split())


def aten(operation: str) -> Callable[..., Any]:
    """The operation of torch of that name, as in "aten.relu.default".

    Raises:
        InputError: there is none, or none that a script may do.
    """
    import torch  # whoever replays scripts has it; a server does not load it

    found = _ATEN.fullmatch(operation)
    packet = getattr(torch.ops.aten, found[1], None) if found else None
    target = getattr(packet, found[2], None) if found and packet is not None else None
    if found is None or not isinstance(target, torch._ops.OpOverload):
        raise InputError(f"a script cannot do {operation[:80]!r}: torch has no such operation")
    known = found[1] in ALLOWED or {torch.Tag.core, torch.Tag.pointwise} & set(target.tags)
    random = torch.Tag.nondeterministic_seeded in target.tags and operation not in _NOT_RANDOM
    if not known or found[1] in _NEVER or target._schema.is_mutable or random or not target._schema.returns:
        raise InputError(
            f"a script cannot do {operation!r}: it is none of those that are known to do no more than they "
            "say and to give the same at each call"
        )
    return target
