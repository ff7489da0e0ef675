// float32 from stdin; to stdout, for each conversion of CUDA's headers in turn, one byte for each float.
#include <cstdio>
#include <vector>

#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>

template <typename Convert>
static void emit(const std::vector<float>& values, Convert convert) {
    for (float value : values) std::putchar(static_cast<unsigned char>(convert(value)));
}

int main() {
    std::vector<float> values;
    for (float value; std::fread(&value, sizeof value, 1, stdin) == 1;) values.push_back(value);
    emit(values, [](float v) { return __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3); });
    emit(values, [](float v) { return __nv_cvt_float_to_fp8(v, __NV_NOSAT, __NV_E4M3); });
    emit(values, [](float v) { return __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E5M2); });
    emit(values, [](float v) { return __nv_cvt_float_to_fp8(v, __NV_NOSAT, __NV_E5M2); });
    emit(values, [](float v) { return __nv_cvt_float_to_fp6(v, __NV_E2M3, cudaRoundNearest); });
    emit(values, [](float v) { return __nv_cvt_float_to_fp6(v, __NV_E3M2, cudaRoundNearest); });
    emit(values, [](float v) { return __nv_cvt_float_to_fp4(v, __NV_E2M1, cudaRoundNearest); });
    emit(values, [](float v) { return __nv_cvt_float_to_e8m0(v, __NV_SATFINITE, cudaRoundPosInf); });
    emit(values, [](float v) { return __nv_cvt_float_to_e8m0(v, __NV_SATFINITE, cudaRoundZero); });
    emit(values, [](float v) { return __nv_cvt_float_to_e8m0(v, __NV_NOSAT, cudaRoundPosInf); });
    emit(values, [](float v) { return __nv_cvt_double_to_fp8(v, __NV_SATFINITE, __NV_E4M3); });
    return 0;
}
