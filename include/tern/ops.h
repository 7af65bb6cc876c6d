// Every differentiable function, grouped: the one page a model author reads.
//
// Unless said otherwise: floating inputs are float32, float64 or (on CUDA) bfloat16, all of one type, but for
// biases, norms' weights, filters and embedding tables, which are float32 beside bfloat16 data
// (docs/numerics.md); all inputs, integers and layouts too, lie on one device, with any strides; results are
// contiguous and new (the layout group gives views where it can; dropout of rate 0, a cast to the same type and
// contiguous() of a contiguous tensor give their input); every floating input is differentiable; cost is linear
// in the elements touched; a wrong shape, or inputs on several devices, throw Error(failed) that names the op.
// Nothing is promoted, moved or broadcast silently.
#pragma once

#include <utility>

#include "tern/attention_pattern.h"
#include "tern/autograd.h"
#include "tern/bernoulli.h"
#include "tern/cluster_attention.h"
#include "tern/random.h"
#include "tern/sequence_layout.h"
#include "tern/sorted_attention.h"
#include "tern/step_state.h"
#include "tern/tensor.h"

namespace tern {

// ---- elementwise: b has a's shape or is a suffix of it (a bias, a table), and is repeated over the leading
// axes ----

Tensor add(const Tensor& a, const Tensor& b);
Tensor subtract(const Tensor& a, const Tensor& b);
Tensor multiply(const Tensor& a, const Tensor& b);
Tensor divide(const Tensor& a, const Tensor& b);
/// factor * x + offset.
Tensor affine(const Tensor& x, double factor, double offset = 0);
Tensor relu(const Tensor& x);
/// x Phi(x) with the error function (Hendrycks and Gimpel 2016, section 2).
Tensor gelu(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor square(const Tensor& x);
Tensor reciprocal(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor sigmoid(const Tensor& x);
/// elu(x) + 1: x + 1 above 0, e^x elsewhere (Katharopoulos et al. 2020, equation 7).
Tensor elu_plus_one(const Tensor& x);
/// The same values in another number type; differentiable between floating types.
Tensor cast(const Tensor& x, DType dtype);

// ---- reductions ----

/// Sum over `axis` (removed from the shape); negative axes count from the end.
Tensor sum(const Tensor& x, int axis);
/// Sum of all elements, shape [].
Tensor sum(const Tensor& x);
Tensor mean(const Tensor& x, int axis);
/// Largest entry along `axis`, which must not be empty; the gradient goes to the first that attains it.
Tensor max(const Tensor& x, int axis);
/// Euclidean norm along `axis`; its gradient at 0 is not finite.
Tensor norm(const Tensor& x, int axis);

// ---- layout: values move, none changes ----

Tensor reshape(const Tensor& x, const Shape& shape);
Tensor permute(const Tensor& x, const std::vector<int>& axes);
Tensor transpose(const Tensor& x, int first, int second);
/// `length` entries of `axis` from `start`; all of them in ranges of `lengths`, one after another; as views.
Tensor slice(const Tensor& x, int axis, std::int64_t start, std::int64_t length);
std::vector<Tensor> split(const Tensor& x, int axis, const std::vector<std::int64_t>& lengths);
/// The entries of `axis`, one tensor each, as views without that axis: the heads of one product without a copy.
std::vector<Tensor> unstack(const Tensor& x, int axis);
/// Tensors of equal shape but for `axis`, one after another along it.
Tensor concatenate(const std::vector<Tensor>& parts, int axis);
/// x repeated over new leading axes: `shape` ends with x's shape.
Tensor expand(const Tensor& x, const Shape& shape);
/// x itself, or a contiguous copy.
Tensor contiguous(const Tensor& x);

// ---- dropout ----

/// Inverted dropout of one site. The rate is rounded to a multiple of 2^-16 and kept entries scale by its exact
/// inverse keep rate. Rate 0 is the identity.
struct DropoutOptions {
  double rate = 0;
  RandomStream stream;
};
/// x [rows, width]; `rows` gives each row's coordinates in the stream.
Tensor dropout(const Tensor& x, const RowCoordinates& rows, const DropoutOptions& options);

// ---- products ----

struct MatmulOptions {
  bool transpose_a = false, transpose_b = false;
};
/// op(a) op(b) for [..., m, k] and [..., k, n] with equal leading axes. Cost m n k for each.
Tensor matmul(const Tensor& a, const Tensor& b, MatmulOptions options = {});

enum class ActivationKind { none, relu, gelu };
/// activation(x weight^T + bias), fused: x [..., inputs], weight [outputs, inputs], bias [outputs] or
/// undefined.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias,
              ActivationKind activation = ActivationKind::none);

/// Weights of feed_forward: up [hidden, width], down [width, hidden], biases [hidden] and [width].
struct FeedForwardParameters {
  Tensor up, up_bias, down, down_bias;
};
/// The block linear(dropout(linear(x, up, gelu)), down) on x [rows, width]; one kernel where the widths are
/// small.
Tensor feed_forward(const Tensor& x, const FeedForwardParameters& parameters, const RowCoordinates& rows,
                    const DropoutOptions& options);

// ---- normalization ----

/// Softmax over the last axis, which must not be empty.
Tensor softmax(const Tensor& x);
/// (x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis (Ba et al. 2016). weight, bias:
/// [width].
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double epsilon = 1e-5);
/// x / max(|x|, 1e-12) over the last axis; a row shorter than 1e-12 gets no gradient.
Tensor unit_rows(const Tensor& x);

struct ResidualNorm {
  Tensor total;       ///< x + dropout(branch)
  Tensor normalized;  ///< layer_norm(total)
};
/// The junction between two blocks of an encoder in one pass: x, branch [rows, width]; weight, bias [width].
ResidualNorm residual_dropout_norm(const Tensor& x, const Tensor& branch, const RowCoordinates& rows,
                                   const DropoutOptions& options, const Tensor& weight, const Tensor& bias,
                                   double epsilon = 1e-5);

// ---- tokens ----

/// table[ids]: ids [count] int32 in [0, rows), table [rows, width] -> [count, width]. An id outside the table
/// throws Error(failed): on the CPU here, on CUDA from the next synchronize().
Tensor embedding(const Tensor& ids, const Tensor& table);
/// dropout(table[ids] + place_table[layout.position]) of type `dtype` in one pass: the first rows of an
/// encoder. ids [tokens] as above; table [rows, width], place_table [padded_length or more, width] or undefined
/// (nothing is added).
Tensor token_embedding(const Tensor& ids, const Tensor& table, const Tensor& place_table,
                       const SequenceLayout& layout, const DropoutOptions& options, DType dtype);
/// table[layout.position] of type `dtype`: table [padded_length or more, width] of accumulate_type() ->
/// [tokens, width].
Tensor position_rows(const Tensor& table, const SequenceLayout& layout, DType dtype);
/// Mean of x [tokens, width] over each sequence -> [sequences, width]. `divisor` replaces the number of tokens
/// where it is not 0. An empty sequence gives zeros.
Tensor sequence_mean(const Tensor& x, const SequenceLayout& layout, std::int64_t divisor = 0);
/// First token of each sequence of x [tokens, width] -> [sequences, width]; every sequence must have one.
Tensor sequence_first(const Tensor& x, const SequenceLayout& layout);
/// Convolution along each sequence by original position: x [tokens, heads, width], weight [heads, window],
/// window odd. Positions that are absent count as zero. Cost tokens * heads * width * window.
Tensor depthwise_conv(const Tensor& x, const Tensor& weight, const SequenceLayout& layout);
/// Convolution with 3 x 3 filters over the tokens of each sequence and the columns of x [tokens, channels,
/// columns], with zeros beyond the borders: weight [outputs, channels, 3 tokens, 3 columns], bias [outputs] or
/// undefined -> [tokens, outputs, columns]. With `of_relu` that of relu(x), without keeping it. Cost
/// tokens * columns * 9 * channels * outputs.
Tensor grid_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, const SequenceLayout& layout,
                 bool of_relu = false);
/// Where tokens stand, whatever the length: the rows of a unit matrix of `width`, stretched linearly over each
/// sequence, so that row t has 1 - |x - c| in the columns c next to x = place_t (width - 1) / (length - 1), and
/// 0 elsewhere -> [tokens, heads, width] of type `dtype`, equal for all heads. Not differentiable.
Tensor stretched_unit_rows(const SequenceLayout& layout, std::int64_t heads, std::int64_t width, DType dtype);

/// Rows turned by their position (Su et al. 2021, equation 34): columns 2 i and 2 i + 1 of x [tokens, heads,
/// width], width even, by the angle layout.position / 10000^(2 i / width), whose sine and cosine stand in those
/// columns of `sinusoids` (sinusoidal_table(), tern/encoder.h), [padded_length or more, width] of
/// accumulate_type().
Tensor rotary(const Tensor& x, const Tensor& sinusoids, const SequenceLayout& layout);

struct TokenMaskOptions {
  double rate = 0.15;                   ///< probability of a token to be chosen
  double masked = 0.8, replaced = 0.1;  ///< shares of chosen tokens that are masked and replaced; others stay
  std::int32_t mask_id = 0;
  std::int32_t first_id = 0, last_id = 0;  ///< ids that replace: [first_id, last_id), uniformly
  RandomStream stream;
};
struct MaskedTokens {
  Tensor tokens;   ///< [tokens] int32: what an encoder sees
  Tensor weights;  ///< [tokens] of accumulate_type(dtype): 1 where the token is to be predicted, else 0
};
/// Tokens to predict, chosen independently by (sample, position, step of the stream), and hidden from the
/// encoder (Devlin et al. 2019, section 3.1). ids [tokens]; rows of unused capacity are never chosen. Not
/// differentiable.
MaskedTokens mask_tokens(const Tensor& ids, const SequenceLayout& layout, const TokenMaskOptions& options,
                         DType dtype);

// ---- losses ----

/// Sum over rows of log sum exp(logits) - logits[label]: logits [rows, classes], labels [rows] int32 -> [], of
/// accumulate_type(). A label that is no class throws Error(failed): on the CPU here, on CUDA from the next
/// synchronize(). Where `score` is not null, in memory of the device, the sum, the rows whose largest logit
/// stands at the label, and the rows are added to it.
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, ScoreTotals* score = nullptr);
/// The same over the rows whose weight is 1; `weights` [rows] of accumulate_type() holds 0 and 1 and is not
/// differentiable.
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& weights, ScoreTotals* score);
/// Sum over rows of (prediction - target)^2, both [rows] and floating -> [], of accumulate_type(). The target
/// is not differentiable. The sum and the rows are added to `score` as above.
Tensor squared_error(const Tensor& prediction, const Tensor& target, ScoreTotals* score = nullptr);

/// x itself, in whose backward pass the gradient of `loss` [] is added to that of the loss which x leads to: a
/// term of the objective that needs no way out of the module where it arises, and shows in no score.
Tensor with_auxiliary_loss(const Tensor& x, const Tensor& loss);

// ---- attention: q, k, v [tokens, heads, width], strided views allowed; no matrix of length x length exists
// ----

/// dropout(softmax(scale q k^T)) v inside each sequence; here the rate is rounded to a multiple of 2^-8. Cost
/// sum of length^2 * width; memory linear.
Tensor softmax_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                         double scale, const DropoutOptions& options);
struct SparseAttention {
  Tensor y;         ///< [tokens, heads, width]
  Tensor log_sums;  ///< ln sum_j exp(scale q_i k_j) over the keys of i, [tokens, heads] of accumulate_type()
};
/// softmax(scale q k^T) v inside each sequence over the pairs of `pattern`. A row that sees no key gives zeros,
/// the log sum -infinity and no gradient. Both results are differentiable, so that parts of one softmax can be
/// added up. Cost pairs of tokens in visible tiles * width; memory linear.
SparseAttention sparse_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const SequenceLayout& layout, const AttentionPattern& pattern, double scale);
/// sum_j (1 - arccos(q_i k_j) / pi)^bits v_j for unit rows q, k (YOSO's expectation; not normalized), or for
/// rows of any length, scaled inside. Cost as above.
Tensor bernoulli_expectation(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                             int bits, BernoulliGradient gradient, BernoulliRows rows = BernoulliRows::given);
struct HashOptions {
  HashFamily family = HashFamily::gaussian;
  int hashes = 32;
  int bits = 9;  ///< 1 .. 20
};
/// Codes of the rows of x [tokens, heads, width] -> [heads, hashes, tokens], uint16 (int32 above 16 bits). The
/// same stream gives queries and keys the same directions. Not differentiable. Cost tokens * heads * width *
/// hashes * bits.
Tensor hash_codes(const Tensor& x, const SequenceLayout& layout, const HashOptions& options,
                  const RandomStream& stream);
/// 1 / hashes * sum over hashes and over the colliding keys j of v_j: the sampled form of
/// bernoulli_expectation, unbiased for Gaussian hashing. Gradients use the same collisions. Cost tokens * heads
/// * hashes * width.
Tensor bernoulli_sample(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                        const HashOptions& options, BernoulliGradient gradient, const RandomStream& stream,
                        BernoulliRows rows = BernoulliRows::given);

// ---- attention that is linear in features: rows [tokens, heads, width], strided views allowed ----

/// Sum over the tokens t of each sequence of a_t b_t^T: a [tokens, heads, r], b [tokens, heads, d] ->
/// [sequences, heads, r, d] of accumulate_type(). An empty sequence gives zeros. Cost tokens * heads * r * d.
Tensor outer_sums(const Tensor& a, const Tensor& b, const SequenceLayout& layout);

struct RowProductOptions {
  bool transpose = false;
};
/// y_t = M^T x_t with M of t's sequence and head: x [tokens, heads, r], matrices [sequences, heads, r, d] of
/// accumulate_type() -> [tokens, heads, d]; with `transpose` y_t = M x_t, matrices [sequences, heads, d, r].
/// The gradients of outer_sums are row_products, and the other way round. Cost as above.
Tensor row_products(const Tensor& x, const Tensor& matrices, const SequenceLayout& layout,
                    RowProductOptions options = {});

/// sum_j (q_i . k_j) v_j / (sum_j q_i . k_j + epsilon) over the tokens j of i's sequence: attention whose
/// weights are products of features q, k [tokens, heads, r] (Katharopoulos et al. 2020, equation 5); v [tokens,
/// heads, d]. The denominator must not be 0, which positive features or epsilon see to. Cost as above; memory
/// linear.
Tensor feature_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                         double epsilon);

/// feature_attention(elu_plus_one(q), elu_plus_one(k), v), all [tokens, heads, width] (Katharopoulos et al.
/// 2020, equations 5 and 7). In bfloat16 on CUDA, with rows of a multiple of 16 bytes, features never exist in
/// memory: only the inputs and the result are kept.
Tensor linear_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                        double epsilon);

/// softmax(q keys^T) values with the rows of t's sequence and head: q [tokens, heads, width], keys [sequences,
/// heads, rows, width] and values [sequences, heads, rows, columns] of accumulate_type() -> [tokens, heads,
/// columns]; `limited`: a sequence of fewer tokens than rows sees as many rows as it has tokens. Cost tokens *
/// heads * rows * (width + columns). The weights [tokens, heads, rows] are kept for the backward pass, but for
/// bfloat16 with as many columns as the width (at most 256), where they never exist.
Tensor projected_attention(const Tensor& q, const Tensor& keys, const Tensor& values,
                           const SequenceLayout& layout, bool limited = false);

/// Entries of taylor_features for rows of `width`: 1 + width + width (width + 1) / 2, rounded up to a multiple
/// of 8.
std::int64_t taylor_feature_count(std::int64_t width);
/// Features phi of x [tokens, heads, width], width at most 64 -> [tokens, heads, taylor_feature_count(width)]
/// with phi(q) . phi(k) = 1 + s + s^2 / 2 for s = q . k / sqrt(width): the exponential's series up to the
/// second order.
Tensor taylor_features(const Tensor& x);

/// When random directions change: every `interval` steps of the stream, which is read on the device; 0 means
/// never.
struct RedrawOptions {
  RandomStream stream;
  std::uint32_t interval = 0;
};
/// Random directions [directions, width] in groups of `width` orthogonal rows, each row distributed like a
/// vector of independent standard normals (Yu et al. 2016, "Orthogonal random features", section 3); rounded to
/// bfloat16, so that devices agree. The step belongs to one forward and backward pass. Cost directions *
/// width^2.
Tensor orthogonal_directions(const Shape& shape, const RedrawOptions& options, DType dtype, Device device = {});

enum class FeatureSide { query, key };
struct PositiveFeatureOptions {
  FeatureSide side = FeatureSide::query;
  double scale = 1;       ///< of x; width^(-1/4) on both sides gives weights near exp(q . k / sqrt(width))
  double stabilizer = 0;  ///< added to every feature
};
/// Features exp(w_f . x - |x|^2 / 2 - shift) + stabilizer of scaled rows x [tokens, heads, width] for
/// directions w [features, width] of x's type -> [tokens, heads, features] (FAVOR+, Choromanski et al. 2021,
/// lemma 1). The shift is the row's largest exponent for queries and the sequence's and head's for keys: it
/// cancels in attention and counts as a constant in the gradient of x; directions have none. Cost tokens *
/// heads * features * width.
Tensor positive_features(const Tensor& x, const Tensor& directions, const SequenceLayout& layout,
                         const PositiveFeatureOptions& options);

// ---- attention by landmarks: a sequence of n tokens has l = min(landmarks, n) of them, landmark i the mean of
// its tokens floor(i n / l) .. floor((i + 1) n / l) - 1; where n <= landmarks each token is one, which stands
// for that token alone (Nystromformer, Xiong et al. 2021, arXiv 2102.03902, section 3.2) ----

/// x [tokens, heads, width] -> [sequences, heads, landmarks, width] of accumulate_type(); zeros where a
/// landmark is absent.
Tensor segment_means(const Tensor& x, const SequenceLayout& layout, std::int64_t landmarks);
/// Softmax of x [tokens, heads, landmarks] over the landmarks that the token's sequence has, 0 for others.
Tensor softmax_over_landmarks(const Tensor& x, const SequenceLayout& layout);
/// Softmax of x [sequences, heads, landmarks, landmarks] over the last axis; the identity, without a gradient,
/// for a sequence of no more tokens than landmarks.
Tensor softmax_between_landmarks(const Tensor& x, const SequenceLayout& layout);
/// Softmax of x [tokens, heads, landmarks] over the tokens of each sequence, for each landmark; in a sequence
/// of no more tokens than landmarks, without a gradient, 1 for token i and landmark i and 0 elsewhere.
Tensor softmax_over_tokens(const Tensor& x, const SequenceLayout& layout);
/// `iterations` steps Z <- Z (13 I - Y (15 I - Y (7 I - Y))) / 4 with Y = M Z towards the inverses of matrices
/// M [..., m, m], from `start` of their shape (section 3.3, equation 11, after Razavi et al. 2014);
/// differentiable in both. Cost 4 m^3 for each step and matrix.
Tensor iterated_inverse(const Tensor& matrices, const Tensor& start, int iterations);

// ---- attention to segments of keys that each query selects (SEA, Lee et al. 2024, arXiv 2310.01777, section
// 3.2); segments are those of landmarks ----

struct SegmentSelection {
  Tensor masks;  ///< [heads, ceil(segments / 32), tokens] int32: bit i of a query, segment i
  std::int64_t segments, keys;
};
/// For each token of a sequence of n tokens and l = min(segments, n) segments, the pairs of head and segment
/// with the largest weights [tokens, heads, segments], which must not be negative: round(heads * keys * l / n)
/// pairs, at least one, so that about `keys` keys of each head are selected. Of equal weights (as float32) the
/// first by head and segment. Not differentiable. Cost tokens * heads * segments.
SegmentSelection select_segments(const Tensor& weights, const SequenceLayout& layout, std::int64_t keys);
/// softmax(scale q k^T) v inside each sequence and head over the keys of the segments that a query has
/// selected; of a segment of more than heads * keys keys it sees so many, evenly spread. A query that sees none
/// gets zeros. Cost tokens * heads * keys * width, and reading each mask for each segment; memory linear.
Tensor selected_attention(const Tensor& q, const Tensor& k, const Tensor& v, const SequenceLayout& layout,
                          const SegmentSelection& selection, double scale);

}  // namespace tern
