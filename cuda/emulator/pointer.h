#pragma once

#include <cstring>
#include <type_traits>

#include "emulator/memory.h"

namespace flrc::emulator {

template <typename T>
class Pointer;

// What a[i] is for an array that may be written: a read where a value is wanted, a write where one is assigned.
template <typename T>
class Reference {
 public:
  explicit Reference(Pointer<T> to) : to_(to) {}
  operator T() const { return to_.read(); }
  T operator=(T value) const {
    to_.write(value);
    return value;
  }
  T operator=(const Reference& other) const { return *this = static_cast<T>(other); }
  Reference(const Reference&) = default;
  T operator+=(T value) const { return *this = to_.read() + value; }
  T operator-=(T value) const { return *this = to_.read() - value; }

 private:
  Pointer<T> to_;
};

// A pointer into device memory whose every access is checked. Stands where kernels have T* on a GPU.
template <typename T>
class Pointer {
  using Byte = std::conditional_t<std::is_const_v<T>, const uint8_t, uint8_t>;
  using Value = std::remove_const_t<T>;

 public:
  Pointer() = default;
  Pointer(std::nullptr_t) {}
  Pointer(Memory* memory, uint8_t* at) : memory_(memory), at_(at) {}
  template <typename U, typename = std::enable_if_t<std::is_same_v<const U, T> && !std::is_same_v<U, T>>>
  Pointer(const Pointer<U>& other) : memory_(other.memory()), at_(other.at()) {}

  Value read() const {
    Value value;
    std::memcpy(static_cast<void*>(&value), access(Memory::Access::read), sizeof(Value));
    return value;
  }
  void write(Value value) const {
    std::memcpy(access(Memory::Access::write), static_cast<const void*>(&value), sizeof(Value));
  }

  auto operator[](int64_t index) const {
    if constexpr (std::is_const_v<T>) {
      return (*this + index).read();
    } else {
      return Reference<T>(*this + index);
    }
  }
  auto operator*() const { return (*this)[0]; }
  Pointer operator+(int64_t count) const { return {memory_, at_ + count * static_cast<int64_t>(sizeof(T))}; }
  Pointer& operator+=(int64_t count) { return *this = *this + count; }
  explicit operator bool() const { return at_ != nullptr; }
  bool operator==(std::nullptr_t) const { return at_ == nullptr; }
  bool operator==(const Pointer& other) const { return at_ == other.at_; }

  Memory* memory() const { return memory_; }
  uint8_t* at() const { return at_; }
  uint8_t* access(Memory::Access how) const {
    if (memory_ == nullptr) throw Fault("access through a null pointer");
    return memory_->access(at_, sizeof(T), how);
  }

 private:
  Memory* memory_ = nullptr;
  uint8_t* at_ = nullptr;
};

template <typename U, typename T>
Pointer<U> pointerCast(Pointer<T> pointer) {
  static_assert(std::is_const_v<U> || !std::is_const_v<T>, "a cast that would lose const");
  return {pointer.memory(), pointer.at()};
}

}  // namespace flrc::emulator
