#ifdef UNROLL_ONEDNN
#include <omp.h>
#include <unroll/graph/error.h>
#include <unroll/ops/gemm.h>
#include <unroll/ops/onednn.h>

#include <list>
#include <string>
#include <unordered_map>

namespace unroll::detail {
namespace {

// oneDNN splits sums over the threads it finds, which would change bits with their number: it
// gets one, and gemm() cuts the work.
class OneThread {
 public:
  OneThread() : saved_(omp_get_max_threads()) {
    if (saved_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (saved_ != 1) omp_set_num_threads(saved_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int saved_;
};

struct Product {
  dnnl::matmul primitive;
  dnnl::reorder pack;  // of a packed product: from rows to the layout that it wants
  dnnl::memory rows;
  dnnl::memory a, b, bias, c;
  dnnl_exec_arg_t args[4];
  int count;
};

Product make_product(const Gemm& g) {
  using Desc = dnnl::memory::desc;
  using Dims = dnnl::memory::dims;
  const auto f32 = dnnl::memory::data_type::f32;
  const auto type = g.bf16 ? dnnl::memory::data_type::bf16 : f32;
  const std::int64_t lda = g.transpose_a ? g.m : g.k;
  const std::int64_t ldb = g.ldb != 0 ? g.ldb : (g.transpose_b ? g.k : g.n);
  Dims a_dims{g.m, g.k}, b_dims{g.k, g.n}, c_dims{g.m, g.n}, bias_dims{1, g.n};
  Dims a_strides = g.transpose_a ? Dims{1, lda} : Dims{lda, 1};
  Dims b_strides = g.transpose_b ? Dims{1, ldb} : Dims{ldb, 1};
  Dims c_strides{g.n, 1}, bias_strides{g.n, 1};
  if (g.batch > 1) {
    a_dims.insert(a_dims.begin(), g.step_a == 0 ? 1 : g.batch);
    b_dims.insert(b_dims.begin(), g.step_b == 0 ? 1 : g.batch);
    c_dims.insert(c_dims.begin(), g.batch);
    bias_dims.insert(bias_dims.begin(), 1);
    a_strides.insert(a_strides.begin(), g.step_a == 0 ? g.m * g.k : g.step_a);
    b_strides.insert(b_strides.begin(), g.step_b == 0 ? g.k * g.n : g.step_b);
    c_strides.insert(c_strides.begin(), g.step_c);
    bias_strides.insert(bias_strides.begin(), g.n);
  }
  const Desc a(a_dims, type, a_strides), rows(b_dims, type, b_strides), c(c_dims, f32, c_strides),
      bias(bias_dims, f32, bias_strides);
  Desc b = g.packed ? Desc(b_dims, type, dnnl::memory::format_tag::any) : rows;
  dnnl::primitive_attr attributes;
  if (g.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  Product p;
  const auto chosen = onednn::matmul(a, b, g.bias ? &bias : nullptr, c, attributes);
  p.primitive = dnnl::matmul(chosen);
  dnnl::engine& engine = onednn::engine();
  if (g.packed) {
    b = chosen.weights_desc();
    p.rows = dnnl::memory(rows, engine, nullptr);
    p.pack = dnnl::reorder(dnnl::reorder::primitive_desc(engine, rows, engine, b));
  }
  p.a = dnnl::memory(a, engine, nullptr);
  p.b = dnnl::memory(b, engine, nullptr);
  p.c = dnnl::memory(c, engine, nullptr);
  p.args[0] = {DNNL_ARG_SRC, p.a.get()};
  p.args[1] = {DNNL_ARG_WEIGHTS, p.b.get()};
  p.args[2] = {DNNL_ARG_DST, p.c.get()};
  p.count = 3;
  if (g.bias) {
    p.bias = dnnl::memory(bias, engine, nullptr);
    p.args[p.count++] = {DNNL_ARG_BIAS, p.bias.get()};
  }
  return p;
}

struct Hash {
  std::size_t operator()(const Gemm& g) const {
    std::size_t h = (g.transpose_a ? 1 : 0) | (g.transpose_b ? 2 : 0) | (g.accumulate ? 4 : 0) |
                    (g.bias ? 8 : 0) | (g.packed ? 16 : 0) | (g.bf16 ? 32 : 0);
    for (std::int64_t x : {g.m, g.n, g.k, g.ldb, g.batch, g.step_a, g.step_b, g.step_c})
      h = (h ^ static_cast<std::size_t>(x)) * 0x9E3779B97F4A7C15ull;
    return h ^ (h >> 32);
  }
};

// The latest products by shape: a fresh shape costs a compilation. One cache a thread, since a
// product's memory objects are pointed at the operands of the moment.
class Products {
 public:
  Product& get(const Gemm& g) {
    const auto found = index_.find(g);
    if (found != index_.end()) {
      if (found->second != order_.begin()) order_.splice(order_.begin(), order_, found->second);
      return order_.front().second;
    }
    order_.emplace_front(g, make_product(g));
    index_[g] = order_.begin();
    constexpr std::size_t most = 512;
    if (order_.size() > most) {
      index_.erase(order_.back().first);
      order_.pop_back();
    }
    return order_.front().second;
  }
  dnnl::stream& stream() { return stream_; }

 private:
  using Order = std::list<std::pair<Gemm, Product>>;
  Order order_;
  std::unordered_map<Gemm, Order::iterator, Hash> index_;
  dnnl::stream stream_{onednn::engine()};
};

Products& products() {
  thread_local Products of_this_thread;
  return of_this_thread;
}

// Runs f on the product for g, with oneDNN's errors as ours.
template <class F>
void with_product(const Gemm& g, const F& f) {
  const OneThread one;
  try {
    f(products().get(g));
  } catch (const dnnl::error& error) {
    fail("matmul", std::string("oneDNN: ") + error.what() + " for m " + std::to_string(g.m) +
                       ", n " + std::to_string(g.n) + ", k " + std::to_string(g.k));
  }
}

}  // namespace

void gemm_onednn(const Gemm& g, const void* a, const void* b, const float* bias, float* c) {
  with_product(g, [&](Product& p) {
    dnnl_memory_set_data_handle(p.a.get(), const_cast<void*>(a));
    dnnl_memory_set_data_handle(p.b.get(), const_cast<void*>(b));
    dnnl_memory_set_data_handle(p.c.get(), c);
    if (g.bias) dnnl_memory_set_data_handle(p.bias.get(), const_cast<float*>(bias));
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(p.primitive.get(), products().stream().get(), p.count, p.args),
        "could not run a product");
  });
}

std::size_t packed_bytes_onednn(const Gemm& g) {
  std::size_t bytes = 0;
  with_product(g, [&](Product& p) { bytes = p.b.get_desc().get_size(); });
  return bytes;
}

void pack_onednn(const Gemm& g, const void* b, std::byte* packed) {
  with_product(g, [&](Product& p) {
    dnnl_memory_set_data_handle(p.rows.get(), const_cast<void*>(b));
    dnnl_memory_set_data_handle(p.b.get(), packed);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, p.rows.get()}, {DNNL_ARG_TO, p.b.get()}};
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(p.pack.get(), products().stream().get(), 2, args),
        "could not lay weights out");
  });
}

}  // namespace unroll::detail
#endif
