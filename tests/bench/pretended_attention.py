"""Stand-ins for other people's attention: each does in torch what theirs is documented to do."""

from __future__ import annotations

import torch


def dense(q_nHd, k_Lhd, v_Lhd, *, sinks_H=None, left=-1, scale):
    """The last n of L tokens see themselves and what is before them, at most `left` of it; in float64."""
    n, heads, _ = q_nHd.shape
    total, group = len(k_Lhd), heads // k_Lhd.shape[1]
    k, v = (x.double().repeat_interleave(group, 1) for x in (k_Lhd, v_Lhd))
    scores = torch.einsum("nhd,lhd->hnl", q_nHd.double(), k) * scale
    at, key = torch.arange(total - n, total)[:, None], torch.arange(total)
    scores = scores.masked_fill((key > at) | ((key < at - left) if left >= 0 else (key < 0)), -torch.inf)
    if sinks_H is not None:
        scores = torch.cat((scores, sinks_H.double()[:, None, None].expand(-1, n, 1)), -1)
    return torch.einsum("hnl,lhd->nhd", scores.softmax(-1)[..., :total], v).to(q_nHd.dtype)


def paged(q_THd, k_cache, v_cache, begins, lengths, table, **rule):
    """Each request over its pages in order."""
    out = torch.full_like(q_THd, torch.nan)
    for r, length in enumerate(lengths.tolist()):
        k, v = (cache[table[r].long()].flatten(0, 1)[:length] for cache in (k_cache, v_cache))
        rows = slice(begins[r], begins[r + 1])
        out[rows] = dense(q_THd[rows], k, v, **rule)
    return out


def flash_varlen(
    q,
    k,
    v,
    max_seqlen_q,
    cu_seqlens_q,
    max_seqlen_k,
    cu_seqlens_k=None,
    seqused_k=None,
    q_v=None,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=None,
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
    return_softmax_lse=False,
    out=None,
    fa_version=2,
    s_aux=None,
):
    assert (fa_version, causal, cu_seqlens_k, window_size[1]) == (3, True, None, -1 if window_size[0] < 0 else 0)
    assert {t.dtype for t in (cu_seqlens_q, seqused_k, block_table)} == {torch.int32}
    assert max_seqlen_q == cu_seqlens_q.diff().max()
    assert max_seqlen_k == seqused_k.max()
    assert s_aux is None or s_aux.dtype == q.dtype
    rule = {"sinks_H": s_aux, "left": window_size[0], "scale": softmax_scale}
    return paged(q, k, v, cu_seqlens_q, seqused_k, block_table, **rule)


def flash_kvcache(
    q,
    k_cache,
    v_cache,
    k=None,
    v=None,
    qv=None,
    cache_seqlens=None,
    page_table=None,
    cu_seqlens_q=None,
    max_seqlen_q=None,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
):
    assert k is v is qv is None
    new = q, k_cache, v_cache, max_seqlen_q, cu_seqlens_q, int(cache_seqlens.max()), None, cache_seqlens
    rule = {"softmax_scale": softmax_scale, "causal": causal, "window_size": window_size}
    return flash_varlen(*new, block_table=page_table, fa_version=3, **rule)


class Planned:
    """FlashInfer's wrappers: planned for a table of pages as indices and where each request's begin."""

    def __init__(self, float_workspace_buffer, kv_layout="NHD", **options):
        assert float_workspace_buffer.dtype == torch.uint8
        assert kv_layout == "NHD"
        self.options = options

    def _plan(self, begins, indptr, indices, last, heads, kv_heads, width, page_size, window_left, sm_scale, **types):
        assert {t.dtype for t in (begins, indptr, indices, last)} == {torch.int32}
        assert types == {"q_data_type": torch.bfloat16, "kv_data_type": torch.bfloat16}
        self.begins, self.heads, self.rule = begins, (heads, kv_heads), {"left": window_left, "scale": sm_scale}
        spans = list(zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True))
        assert all(1 <= rest <= page_size for rest in last.tolist())
        self.lengths = torch.tensor([(b - a - 1) * page_size for a, b in spans]) + last
        self.table = [indices[a:b] for a, b in spans]

    def run(self, q, paged_kv_cache, sinks=None):
        assert (q.shape[1], paged_kv_cache[0].shape[2]) == self.heads
        return paged(q, *paged_kv_cache, self.begins, self.lengths, self.table, sinks_H=sinks, **self.rule)


class PlannedDecode(Planned):
    def plan(self, indptr, indices, last_page_len, *heads, **rule):
        assert self.options == {"use_tensor_cores": True}
        self._plan(torch.arange(len(indptr), dtype=torch.int32), indptr, indices, last_page_len, *heads, **rule)


class PlannedPrefill(Planned):
    def plan(self, qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, *heads, causal, **rule):
        assert causal
        self._plan(qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, *heads, **rule)


class PlannedSinks(PlannedPrefill):
    def run(self, q, paged_kv_cache, sinks, sm_scale):
        assert sinks.dtype == torch.float32
        assert (self.options["window_left"], sm_scale) == (self.rule["left"], self.rule["scale"])
        assert self.options["head_dim_qk"] == self.options["head_dim_vo"] == q.shape[2]
        assert self.options["backend"] in ("fa2", "fa3")
        return super().run(q, paged_kv_cache, sinks)


def unified_old(
    q,
    k,
    v,
    out,
    cu_seqlens_q,
    max_seqlen_q,
    seqused_k,
    max_seqlen_k,
    softmax_scale,
    causal,
    window_size,
    block_table,
    softcap,
    q_descale,
    k_descale,
    v_descale,
    alibi_slopes=None,
    sinks=None,
):
    assert causal
    assert q_descale is k_descale is v_descale is None
    assert softcap == 0
    assert (max_seqlen_q, max_seqlen_k) == (cu_seqlens_q.diff().max(), seqused_k.max())
    rule = {"sinks_H": sinks, "left": window_size[0], "scale": softmax_scale}
    out.copy_(paged(q, k, v, cu_seqlens_q, seqused_k, block_table, **rule))


def unified_new(
    *,
    seq_threshold_3D=None,
    num_par_softmax_segments=None,
    softmax_segm_output=None,
    softmax_segm_max=None,
    softmax_segm_expsum=None,
    **rest,
):
    heads, width = rest["q"].shape[1:]
    assert softmax_segm_output.shape == (seq_threshold_3D, heads, num_par_softmax_segments, width)
    assert softmax_segm_max.shape == softmax_segm_expsum.shape == softmax_segm_output.shape[:3]
    assert softmax_segm_output.dtype == softmax_segm_max.dtype == torch.float32
    unified_old(**rest)


def sglang_decode_old(
    q, k_buffer, v_buffer, o, kv_indptr, kv_indices, attn_logits, attn_lse, num_kv_splits, max_kv_splits, sm_scale,
    logit_cap=0.0, sinks=None,
):  # fmt: skip
    assert attn_logits.shape == (*q.shape[:2], max_kv_splits, q.shape[2])
    assert attn_lse.shape == attn_logits.shape[:3]
    assert num_kv_splits.dtype == kv_indptr.dtype == torch.int32
    assert len(num_kv_splits) == len(q)
    assert 1 <= num_kv_splits.min() <= num_kv_splits.max() <= max_kv_splits
    for r, (low, high) in enumerate(zip(kv_indptr[:-1].tolist(), kv_indptr[1:].tolist(), strict=True)):
        seen = kv_indices[low:high]
        o[r] = dense(q[r : r + 1], k_buffer[seen], v_buffer[seen], sinks_H=sinks, scale=sm_scale)[0]


def sglang_decode_new(*, k_scale, v_scale, page_size: int = 1, **rest):
    assert k_scale == v_scale == 1
    sglang_decode_old(**rest)


def sglang_extend_old(
    q_extend, k_extend, v_extend, o_extend, k_buffer, v_buffer, qo_indptr, kv_indptr, kv_indices, custom_mask,
    is_causal, mask_indptr, max_len_extend, sm_scale=None, sliding_window_size=-1, sinks=None,
):  # fmt: skip
    assert custom_mask is mask_indptr is None
    assert is_causal
    assert max_len_extend == qo_indptr.diff().max()
    rule = {"sinks_H": sinks, "left": sliding_window_size, "scale": sm_scale}
    for r in range(len(qo_indptr) - 1):
        new, before = slice(qo_indptr[r], qo_indptr[r + 1]), kv_indices[kv_indptr[r] : kv_indptr[r + 1]]
        k, v = (torch.cat(pair) for pair in ((k_buffer[before], k_extend[new]), (v_buffer[before], v_extend[new])))
        o_extend[new] = dense(q_extend[new], k, v, **rule)


def sglang_extend_new(*, k_scale, v_scale, **rest):
    assert k_scale == v_scale == 1
    sglang_extend_old(**rest)
