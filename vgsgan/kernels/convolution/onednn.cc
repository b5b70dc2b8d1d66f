// 3 x 3 and other convolutions of oneDNN as XLA custom calls; see onednn.py.
//
// The rows of a batch, or the channels where the kernel is larger than the
// maps, are shared among the threads of XLA's own pool, each of which runs a
// primitive of one thread: a team of OpenMP's would spin beside XLA's threads
// after every convolution.

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <tuple>
#include <unordered_map>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

namespace ffi = ::xla::ffi;
using dnnl::memory;
using Map = ffi::Buffer<ffi::F32, 4>;
using Result = ffi::ResultBuffer<ffi::F32, 4>;
using Tag = memory::format_tag;

namespace {

enum class Kind { kForward, kInputGradient, kKernelGradient };

// The shape of a convolution of stride 1 that is zero padded to the same size,
// and the channels of the kernel in memory, of which it may use a part.
struct Shape {
  int64_t rows, height, width, inputs, outputs, side;
  int64_t all_inputs = inputs, all_outputs = outputs;

  auto key() const {
    return std::tie(rows, height, width, inputs, outputs, side, all_inputs,
                    all_outputs);
  }
  bool operator<(const Shape& other) const { return key() < other.key(); }
  int64_t pixels() const { return rows * height * width; }
  int64_t kernel() const { return side * side * inputs * outputs; }
};

const dnnl::engine& Engine() {
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

// oneDNN takes as many threads as OpenMP offers to the one that calls it.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }

 private:
  int before_;
};

// Memory that a thread keeps, since to touch fresh pages takes longer than
// most convolutions.
class Space {
 public:
  float* At(size_t bytes) {
    if (bytes > size_) {
      data_.reset(static_cast<char*>(
          ::operator new(bytes, std::align_val_t(kAlignment))));
      size_ = bytes;
    }
    return reinterpret_cast<float*>(data_.get());
  }

 private:
  static constexpr size_t kAlignment = 64;
  struct Free {
    void operator()(char* data) const {
      ::operator delete(data, std::align_val_t(kAlignment));
    }
  };
  std::unique_ptr<char, Free> data_;
  size_t size_ = 0;
};

// A convolution of a part, and how its kernel comes to lie as it wants it.
struct Convolution {
  dnnl::primitive primitive;
  dnnl::reorder reorder;
  memory::desc input, output, plain, wanted, scratchpad, reorder_scratchpad;
};

Convolution Make(Kind kind, const Shape& s) {
  const memory::dim pad = s.side / 2;
  const memory::dims one{1, 1}, pads{pad, pad};
  const auto f32 = memory::data_type::f32;
  const auto direct = dnnl::algorithm::convolution_direct;
  const memory::dims kernel{s.outputs, s.inputs, s.side, s.side};
  memory::desc input({s.rows, s.inputs, s.height, s.width}, f32, Tag::nhwc);
  memory::desc output({s.rows, s.outputs, s.height, s.width}, f32, Tag::nhwc);
  const memory::dim column = s.all_inputs * s.all_outputs;
  memory::desc any(kernel, f32, Tag::any);
  memory::desc plain(kernel, f32,
                     memory::dims{1, s.all_outputs, s.side * column, column});
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::convolution_forward::primitive_desc forward(
      Engine(), dnnl::prop_kind::forward_training, direct, input, any, output,
      one, pads, pads, attr);
  Convolution made;
  made.input = input;
  made.output = output;
  made.plain = plain;
  const auto keep = [&](const auto& described, memory::desc wanted) {
    made.primitive = dnnl::primitive(described);
    made.wanted = wanted;
    made.scratchpad = described.scratchpad_desc();
  };
  if (kind == Kind::kForward) {
    keep(forward, forward.weights_desc());
  } else if (kind == Kind::kInputGradient) {
    const dnnl::convolution_backward_data::primitive_desc described(
        Engine(), direct, input, any, output, one, pads, pads, forward, attr);
    keep(described, described.weights_desc());
  } else {
    const dnnl::convolution_backward_weights::primitive_desc described(
        Engine(), direct, input, any, output, one, pads, pads, forward, attr);
    keep(described, described.diff_weights_desc());
  }
  const bool out = kind == Kind::kKernelGradient;
  const dnnl::reorder::primitive_desc reorder(
      Engine(), out ? made.wanted : plain, Engine(), out ? plain : made.wanted,
      attr);
  made.reorder = dnnl::reorder(reorder);
  made.reorder_scratchpad = reorder.scratchpad_desc();
  return made;
}

// Primitives are made once for each shape; maps keep what they hold in place.
const Convolution& Made(Kind kind, const Shape& shape) {
  static auto* lock = new std::mutex;
  static auto* made = new std::map<std::pair<Kind, Shape>, Convolution>;
  std::lock_guard<std::mutex> held(*lock);
  auto found = made->find({kind, shape});
  if (found == made->end()) {
    OneThread alone;
    found = made->emplace(std::pair(kind, shape), Make(kind, shape)).first;
  }
  return found->second;
}

void Execute(const dnnl::primitive& primitive,
             const std::unordered_map<int, memory>& arguments) {
  OneThread alone;
  dnnl::stream stream(Engine());
  primitive.execute(stream, arguments);
  stream.wait();
}

memory At(const memory::desc& desc, const float* data) {
  return memory(desc, Engine(), const_cast<float*>(data));
}

// One part's share, with a kernel that lies as oneDNN wants it.
void Convolve(Kind kind, const Convolution& of, const float* input,
              const float* kernel, const float* output) {
  static thread_local Space scratchpad, space;
  const bool into = kind == Kind::kKernelGradient;
  const memory plain = At(of.plain, kernel);
  const memory wanted = At(of.wanted, space.At(of.wanted.get_size()));
  const auto scratch = [&](const memory::desc& desc) {
    return At(desc, scratchpad.At(desc.get_size()));
  };
  const auto reorder = [&] {
    Execute(of.reorder,
            {{DNNL_ARG_FROM, into ? wanted : plain},
             {DNNL_ARG_TO, into ? plain : wanted},
             {DNNL_ARG_SCRATCHPAD, scratch(of.reorder_scratchpad)}});
  };
  if (!into) reorder();
  Execute(of.primitive,
          {{kind == Kind::kInputGradient ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC,
            At(of.input, input)},
           {into ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, wanted},
           {kind == Kind::kForward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST,
            At(of.output, output)},
           {DNNL_ARG_SCRATCHPAD, scratch(of.scratchpad)}});
  if (into) reorder();
}

// Runs work(0), ..., work(count - 1) in this thread and those of the pool that
// are free. What a thread has begun is all that is waited for, so that threads
// that wait for each other's parts cannot stand still.
template <typename Work>
void Share(ffi::ThreadPool& pool, int count, const Work& work) {
  struct State {
    std::atomic<int> next{0};
    int done = 0;
    std::exception_ptr error;
    std::mutex lock;
    std::condition_variable all;
  };
  auto state = std::make_shared<State>();
  // By the time a late thread starts, `work` may be gone and `next` is over.
  const auto run = [state, count, &work] {
    for (int i = state->next++; i < count; i = state->next++) {
      std::exception_ptr error;
      try {
        work(i);
      } catch (...) {
        error = std::current_exception();
      }
      std::lock_guard<std::mutex> held(state->lock);
      if (error) state->error = error;
      if (++state->done == count) state->all.notify_one();
    }
  };
  for (int i = 1; i < count; ++i) pool.Schedule(std::function<void()>(run));
  run();
  std::unique_lock<std::mutex> held(state->lock);
  state->all.wait(held, [&] { return state->done == count; });
  if (state->error) std::rethrow_exception(state->error);
}

// Numbers in the sums of a kernel's gradient beside the first (256 MiB).
constexpr int64_t kMostSums = int64_t{1} << 26;

// Where part i of `count` begins among `size` things.
int64_t Begin(int64_t size, int64_t i, int64_t count) {
  return size * i / count;
}

void ByRows(Kind kind, ffi::ThreadPool& pool, const Shape& shape,
            const float* input, float* kernel, const float* output) {
  const int64_t size = shape.kernel(), row = shape.height * shape.width;
  // Of the kernel's gradient each part has its own sum, the first in place.
  const bool into = kind == Kind::kKernelGradient;
  const int64_t most = into ? 1 + kMostSums / size : shape.rows;
  const int64_t count = std::max<int64_t>(
      1, std::min({pool.num_threads(), shape.rows, most}));
  Space others;  // What is freed is kept: see vgsgan/common/memory.py.
  float* sums = into ? others.At(sizeof(float) * size * (count - 1)) : nullptr;
  Share(pool, count, [&](int i) {
    Shape part = shape;
    const int64_t begin = Begin(shape.rows, i, count) * row;
    part.rows = Begin(shape.rows, i + 1, count) - begin / row;
    Convolve(kind, Made(kind, part), input + begin * shape.inputs,
             into && i ? sums + (i - 1) * size : kernel,
             output + begin * shape.outputs);
  });
  if (!into || count == 1) return;
  Share(pool, count, [&](int i) {
    const int64_t begin = Begin(size, i, count);
    const int64_t end = Begin(size, i + 1, count);
    for (int64_t part = 0; part < count - 1; ++part) {
      const float* sum = sums + part * size;
      for (int64_t j = begin; j < end; ++j) kernel[j] += sum[j];
    }
  });
}

// Channels of a part are a multiple of this, as oneDNN takes them together.
constexpr int64_t kTogether = 16;

// Each part has channels of its own of what comes out, or, of the kernel's
// gradient, of the output's gradient. Its map lies by itself meanwhile.
void ByChannels(Kind kind, ffi::ThreadPool& pool, const Shape& shape,
                const float* input, float* kernel, const float* output) {
  const bool of_inputs = kind == Kind::kInputGradient;
  const int64_t channels = of_inputs ? shape.inputs : shape.outputs;
  const int64_t groups = channels / kTogether;
  const int64_t count = std::max<int64_t>(
      1, std::min<int64_t>(pool.num_threads(), groups));
  float* whole = const_cast<float*>(of_inputs ? input : output);
  Share(pool, count, [&](int i) {
    static thread_local Space space;
    const int64_t begin = Begin(groups, i, count) * kTogether;
    const int64_t end = i + 1 < count ? Begin(groups, i + 1, count) * kTogether
                                      : channels;
    const int64_t own = end - begin;
    Shape part = shape;
    (of_inputs ? part.inputs : part.outputs) = own;
    float* map = space.At(sizeof(float) * shape.pixels() * own);
    const auto each_pixel = [&](const auto& copy) {
      for (int64_t pixel = 0; pixel < shape.pixels(); ++pixel) {
        copy(map + pixel * own, whole + pixel * channels + begin);
      }
    };
    if (kind == Kind::kKernelGradient) {
      each_pixel([&](float* mine, float* all) { std::copy_n(all, own, mine); });
    }
    Convolve(kind, Made(kind, part), of_inputs ? map : input,
             kernel + begin * (of_inputs ? shape.outputs : 1),
             of_inputs ? output : map);
    if (kind != Kind::kKernelGradient) {
      each_pixel([&](float* mine, float* all) { std::copy_n(mine, own, all); });
    }
  });
}

void Run(Kind kind, ffi::ThreadPool& pool, const Shape& shape,
         const float* input, float* kernel, const float* output) {
  const int64_t maps = shape.pixels() * (shape.inputs + shape.outputs);
  const bool many = std::min(shape.inputs, shape.outputs) >= 2 * kTogether;
  const auto run = many && shape.kernel() > maps ? ByChannels : ByRows;
  run(kind, pool, shape, input, kernel, output);
}

ffi::Error Guarded(Kind kind, ffi::ThreadPool pool, const Shape& shape,
                   const float* input, const float* kernel,
                   const float* output) {
  try {
    Run(kind, pool, shape, input, const_cast<float*>(kernel), output);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "no memory for a convolution");
  } catch (const dnnl::error& error) {
    const std::string said = std::string("oneDNN: ") + error.what();
    return error.status == dnnl_out_of_memory
               ? ffi::Error(ffi::ErrorCode::kResourceExhausted, said)
               : ffi::Error::Internal(said);
  }
  return ffi::Error::Success();
}

Shape Of(ffi::Span<const int64_t> input, ffi::Span<const int64_t> kernel) {
  return {input[0], input[1], input[2], input[3], kernel[3], kernel[0]};
}

ffi::Error Output(ffi::ThreadPool pool, Map input, Map kernel, Result output) {
  return Guarded(Kind::kForward, pool,
                 Of(input.dimensions(), kernel.dimensions()),
                 input.typed_data(), kernel.typed_data(),
                 output->typed_data());
}

ffi::Error InputGradient(ffi::ThreadPool pool, Map output, Map kernel,
                         Result input) {
  return Guarded(Kind::kInputGradient, pool,
                 Of(input->dimensions(), kernel.dimensions()),
                 input->typed_data(), kernel.typed_data(),
                 output.typed_data());
}

ffi::Error KernelGradient(ffi::ThreadPool pool, Map input, Map output,
                          Result kernel) {
  return Guarded(Kind::kKernelGradient, pool,
                 Of(input.dimensions(), kernel->dimensions()),
                 input.typed_data(), kernel->typed_data(),
                 output.typed_data());
}

}  // namespace

#define VGSGAN_CALL(name, function)                                    \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,                        \
                                ffi::Ffi::Bind()                       \
                                    .Ctx<ffi::ThreadPool>()            \
                                    .Arg<Map>()                        \
                                    .Arg<Map>()                        \
                                    .Ret<Map>())

VGSGAN_CALL(vgsgan_conv2d_output, Output);
VGSGAN_CALL(vgsgan_conv2d_input, InputGradient);
VGSGAN_CALL(vgsgan_conv2d_kernel, KernelGradient);
