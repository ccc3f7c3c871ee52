/* Warps: the ops of warp.py in C; see _kernels.c. */

#include <string.h>

#include "_kernels.h"

#define HALF_STEP ((int64_t)1 << (ONE_BITS - 9))
#define WEIGHT_BITS 11

/* A rotation reads its image from 64 bits per pixel, 21 for each channel, so that one product weighs all three. The weighed sum of a
   row of taps lies within 2^20 of zero, see test_exact.py; LANES adds 2^20 to each channel, so that it is positive. */
#define LANE 21
#define LANES (((uint64_t)1 << 20) * (1 + ((uint64_t)1 << LANE) + ((uint64_t)1 << 2 * LANE)))

static void pack(const pixel *image, uint64_t *out, int64_t h, int64_t w) {
    for (int64_t y = -MARGIN; y < h + MARGIN; y++, out += w + 2 * MARGIN) {
        const pixel *line = image + clamp(y, 0, h - 1) * w;
        uint64_t *own = out + MARGIN;
        for (int64_t x = 0; x < w; x++)
            own[x] = line[x] | (uint64_t)line[h * w + x] << LANE | (uint64_t)line[2 * h * w + x] << 2 * LANE;
        for (int k = 1; k <= MARGIN; k++) own[-k] = own[0], own[w - 1 + k] = own[w - 1];
    }
}

/* One output row: the source of pixel c is (x + 2 c cos, y - 2 c sin). `taps` is a constant where this is called. */
static inline void rotate_row(const uint64_t *packed, pixel *out, int64_t h, int64_t w, int64_t x, int64_t y, int64_t cos, int64_t sin,
                              const int16_t *table, const int taps, const pixel *fill) {
    const int64_t shift = taps > 1 ? HALF_STEP - Q16 : 0, before = (taps + 1) / 2 - 1, size = h * w;
    for (int64_t c = 0; c < w; c++, x += 2 * cos, y -= 2 * sin) {
        if (x < 0 || x >= w << ONE_BITS || y < 0 || y >= h << ONE_BITS) {
            for (int p = 0; p < 3; p++) out[p * size + c] = fill[p];
            continue;
        }
        const int64_t column = ((x + shift) >> ONE_BITS) - before, row = ((y + shift) >> ONE_BITS) - before;
        const int16_t *wx = table + (((x + shift) >> 9) & (PHASES - 1)), *wy = table + (((y + shift) >> 9) & (PHASES - 1));
        const uint64_t *at = packed + (row + MARGIN) * (w + 2 * MARGIN) + column + MARGIN;
        uint32_t total[3] = {0};
        for (int r = 0; r < taps; r++, at += w + 2 * MARGIN) {
            uint64_t sum = LANES;
            for (int t = 0; t < taps; t++) sum += at[t] * (uint64_t)wx[t * PHASES];
            const uint32_t own = (uint32_t)wy[r * PHASES], mask = (1 << LANE) - 1;
            total[0] += ((uint32_t)sum & mask) * own;
            total[1] += ((uint32_t)(sum >> LANE) & mask) * own;
            total[2] += (uint32_t)(sum >> 2 * LANE) * own;
        }
        const uint32_t added = (uint32_t)1 << (20 + WEIGHT_BITS); /* 2^20 to each row, whose weights sum to 2^WEIGHT_BITS */
        for (int p = 0; p < 3; p++) out[p * size + c] = to_pixel((int32_t)(total[p] - added) >> (2 * WEIGHT_BITS));
    }
}

void rotate(const pixel *image, pixel *out, uint64_t *packed, int64_t h, int64_t w, int64_t cos, int64_t sin, const int16_t *table,
            int taps, const pixel *fill) {
    pack(image, packed, h, w);
    for (int64_t r = 0; r < h; r++, out += w) {
        const int64_t dx = 1 - w, dy = 2 * r + 1 - h, x = cos * dx + sin * dy + w * Q16, y = cos * dy - sin * dx + h * Q16;
        if (taps == 4) rotate_row(packed, out, h, w, x, y, cos, sin, table, 4, fill);
        if (taps == 2) rotate_row(packed, out, h, w, x, y, cos, sin, table, 2, fill);
        if (taps == 1) rotate_row(packed, out, h, w, x, y, cos, sin, table, 1, fill);
    }
}

/* A product of 16 bits by 16 takes half the work of one of 32 bits by 32. */
static inline int32_t times(pixel value, int16_t weight) { return (int32_t)(int16_t)value * weight; }

/* out[x] is the weighed sum of from[0][x], from[1][x], ..., `taps` of them; weights are PHASES apart. */
static void weigh(const pixel *const *from, pixel *restrict out, int64_t length, const int16_t *weights, int taps) {
    const pixel *first = from[0], *second = from[1], *third = from[2], *fourth = from[3];
    if (taps == 1) {
        memcpy(out, first, length);
    } else if (taps == 2) {
        const int16_t a = weights[0], b = weights[PHASES];
        for (int64_t x = 0; x < length; x++) out[x] = (pixel)((times(first[x], a) + times(second[x], b)) >> WEIGHT_BITS);
    } else {
        const int16_t a = weights[0], b = weights[PHASES], c = weights[2 * PHASES], d = weights[3 * PHASES];
        for (int64_t x = 0; x < length; x++) {
            const int32_t total = times(first[x], a) + times(second[x], b) + times(third[x], c) + times(fourth[x], d);
            const int16_t v = (int16_t)(total >> WEIGHT_BITS), low = v < 0 ? 0 : v;
            out[x] = (pixel)(low > 255 ? 255 : low);
        }
    }
}

void shift_rows(const pixel *image, pixel *out, pixel *line, int64_t rows, int64_t length, const int64_t *offset, int each,
                const int16_t *table, int taps, const pixel *fill) {
    for (int64_t r = 0; r < 3 * rows; r++, image += length, out += length) {
        const int64_t at = offset[each ? r % rows : 0], step = at + (taps > 1 ? HALF_STEP : Q16);
        const int64_t start = clamp(step >> ONE_BITS, -length - 1, length) + 1 - (taps + 1) / 2, wide = length + taps - 1;
        const int64_t left = clamp(-start, 0, wide), right = clamp(length - start, 0, wide);
        memset(line, image[0], left);
        if (right > left) memcpy(line + left, image + start + left, right - left);
        memset(line + right, image[length - 1], wide - right);
        const pixel *const from[] = {line, line + 1, line + 2, line + 3};
        weigh(from, out, length, table + ((step >> 9) & (PHASES - 1)), taps);
        const int64_t inside = clamp((at + Q16) >> ONE_BITS, -length, length);
        if (inside < 0) memset(out, fill[r / rows], -inside);
        if (inside > 0) memset(out + length - inside, fill[r / rows], inside);
    }
}

void shift_columns(const pixel *image, pixel *out, int64_t h, int64_t w, int64_t offset, const int16_t *table, int taps,
                   const pixel *fill) {
    const int64_t step = offset + (taps > 1 ? HALF_STEP : Q16), start = clamp(step >> ONE_BITS, -h - 1, h) + 1 - (taps + 1) / 2;
    const int64_t inside = clamp((offset + Q16) >> ONE_BITS, -h, h);
    for (int p = 0; p < 3; p++, image += h * w)
        for (int64_t y = 0; y < h; y++, out += w) {
            const pixel *from[4];
            for (int t = 0; t < 4; t++) from[t] = image + clamp(start + y + t, 0, h - 1) * w;
            if (y < -inside || y >= h - inside)
                memset(out, fill[p], w);
            else
                weigh(from, out, w, table + ((step >> 9) & (PHASES - 1)), taps);
        }
}

/* Shuffling the halves of 16 x 16 pixels like cards moves each bit of a pixel's place up by one: after four times, x and y have
   changed places. Compilers make vectors of the loop. */
static void transpose_block(const pixel *in, pixel *out, int64_t h, int64_t w) {
    pixel a[256], b[256];
    for (int y = 0; y < 16; y++) memcpy(a + 16 * y, in + y * w, 16);
    for (int twice = 0; twice < 2; twice++) {
        for (int i = 0; i < 128; i++) b[2 * i] = a[i], b[2 * i + 1] = a[128 + i];
        for (int i = 0; i < 128; i++) a[2 * i] = b[i], a[2 * i + 1] = b[128 + i];
    }
    for (int x = 0; x < 16; x++) memcpy(out + x * h, a + 16 * x, 16);
}

void transpose(const pixel *in, pixel *out, int64_t h, int64_t w) {
    for (int64_t top = 0; top < h; top += 16)
        for (int64_t left = 0; left < w; left += 16)
            if (top + 16 <= h && left + 16 <= w)
                transpose_block(in + top * w + left, out + left * h + top, h, w);
            else
                for (int64_t x = left; x < left + 16 && x < w; x++)
                    for (int64_t y = top; y < top + 16 && y < h; y++) out[x * h + y] = in[y * w + x];
}
