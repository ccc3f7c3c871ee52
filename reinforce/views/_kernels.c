/* Kernels: the ops of warp.py, ops.py and mix.py that take longest in numpy, with the same bits.

The numpy code is the definition; tests/views/test_exact.py compares both with plain integer arithmetic. Here, too, everything is
integers, so neither the compiler nor the instruction set changes a bit. The caller has checked shapes, and gives arrays
that are contiguous; the interpreter's lock is released. REINFORCE_KERNELS=numpy makes the import fail, as if nothing had been built. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ONE_BITS 17 /* one pixel, in position units */
#define Q16 ((int64_t)1 << 16)
#define PHASES 256
#define HALF_STEP ((int64_t)1 << (ONE_BITS - 9))
#define WEIGHT_BITS 11

typedef uint8_t pixel;

static inline int64_t clamp(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }
static inline pixel to_pixel(int32_t v) { return (pixel)(v < 0 ? 0 : v > 255 ? 255 : v); }

/* One output row of a rotation: the source of pixel c is (x + 2 c cos, y - 2 c sin). */
static void rotate_row(const pixel *image, pixel *out, int64_t size, int64_t h, int64_t w, int64_t x, int64_t y, int64_t cos,
                       int64_t sin, const int16_t *table, int taps, const pixel *fill) {
    const int64_t shift = taps > 1 ? HALF_STEP - Q16 : 0, before = (taps + 1) / 2 - 1;
    for (int64_t c = 0; c < w; c++, x += 2 * cos, y -= 2 * sin) {
        if (x < 0 || x >= w << ONE_BITS || y < 0 || y >= h << ONE_BITS) {
            for (int p = 0; p < 3; p++) out[p * size + c] = fill[p];
            continue;
        }
        const int64_t column = ((x + shift) >> ONE_BITS) - before, row = ((y + shift) >> ONE_BITS) - before;
        if (taps == 1) {
            for (int p = 0; p < 3; p++) out[p * size + c] = image[p * size + row * w + column];
            continue;
        }
        const int px = ((x + shift) >> 9) & (PHASES - 1), py = ((y + shift) >> 9) & (PHASES - 1);
        int64_t rows[4], columns[4];
        int32_t wx[4], wy[4];
        for (int t = 0; t < taps; t++) {
            wx[t] = table[t * PHASES + px], wy[t] = table[t * PHASES + py];
            rows[t] = clamp(row + t, 0, h - 1) * w, columns[t] = clamp(column + t, 0, w - 1);
        }
        for (int p = 0; p < 3; p++) {
            int32_t total = 0;
            for (int r = 0; r < taps; r++) {
                const pixel *line = image + p * size + rows[r];
                int32_t sum = 0;
                for (int t = 0; t < taps; t++) sum += line[columns[t]] * wx[t];
                total += sum * wy[r];
            }
            out[p * size + c] = to_pixel(total >> (2 * WEIGHT_BITS));
        }
    }
}

static void rotate(const pixel *image, pixel *out, int64_t h, int64_t w, int64_t cos, int64_t sin, const int16_t *table, int taps,
                   const pixel *fill) {
    for (int64_t r = 0; r < h; r++) {
        const int64_t dx = 1 - w, dy = 2 * r + 1 - h;
        rotate_row(image, out + r * w, h * w, h, w, cos * dx + sin * dy + w * Q16, cos * dy - sin * dx + h * Q16, cos, sin, table,
                   taps, fill);
    }
}

/* Move each row along itself: the pixel at x comes from x + offset. `line` has room for length + 3 pixels. */
static void shift_rows(const pixel *image, pixel *out, pixel *line, int64_t rows, int64_t length, const int64_t *offset, int each,
                       const int16_t *table, int taps, const pixel *fill) {
    for (int64_t r = 0; r < 3 * rows; r++, image += length, out += length) {
        const int64_t at = offset[each ? r % rows : 0], step = at + (taps > 1 ? HALF_STEP : Q16);
        const int64_t start = clamp(step >> ONE_BITS, -length - 1, length) + 1 - (taps + 1) / 2, wide = length + taps - 1;
        const int64_t left = clamp(-start, 0, wide), right = clamp(length - start, 0, wide);
        memset(line, image[0], left);
        if (right > left) memcpy(line + left, image + start + left, right - left);
        memset(line + right, image[length - 1], wide - right);
        const int phase = (step >> 9) & (PHASES - 1);
        if (taps == 1) {
            memcpy(out, line, length);
        } else if (taps == 2) {
            const int16_t a = table[phase], b = table[PHASES + phase];
            for (int64_t x = 0; x < length; x++)
                out[x] = (pixel)(((int32_t)line[x] * a + (int32_t)line[x + 1] * b) >> WEIGHT_BITS);
        } else {
            const int16_t a = table[phase], b = table[PHASES + phase], c = table[2 * PHASES + phase], d = table[3 * PHASES + phase];
            for (int64_t x = 0; x < length; x++)
                out[x] = to_pixel(((int32_t)line[x] * a + (int32_t)line[x + 1] * b + (int32_t)line[x + 2] * c +
                                   (int32_t)line[x + 3] * d) >> WEIGHT_BITS);
        }
        const int64_t inside = clamp((at + Q16) >> ONE_BITS, -length, length);
        if (inside < 0) memset(out, fill[r / rows], -inside);
        if (inside > 0) memset(out + length - inside, fill[r / rows], inside);
    }
}

static void transpose(const pixel *in, pixel *out, int64_t h, int64_t w) {
    for (int64_t top = 0; top < h; top += 16)
        for (int64_t x = 0; x < w; x++)
            for (int64_t y = top; y < top + 16 && y < h; y++) out[x * h + y] = in[y * w + x];
}

/* One pass of a box along the columns. A quotient of n < 2^30 by `weight` < 2^bits is n * factor >> (30 + bits), exactly. */
static void box_columns(const pixel *in, pixel *out, uint32_t *sums, int64_t h, int64_t w, int64_t radius) {
    const int64_t whole = radius >> 16;
    const uint32_t fraction = (uint32_t)(radius & (Q16 - 1)), weight = (uint32_t)(2 * radius + Q16);
    int bits = 0;
    while (weight >> bits) bits++;
    const uint32_t factor = (uint32_t)((((uint64_t)1 << (30 + bits)) / weight) + 1);
    memset(sums, 0, w * sizeof *sums);
    for (int64_t k = -whole; k <= whole; k++) {
        const pixel *line = in + clamp(k, 0, h - 1) * w;
        for (int64_t x = 0; x < w; x++) sums[x] += line[x];
    }
    for (int64_t y = 0; y < h; y++) {
        const pixel *above = in + clamp(y - whole - 1, 0, h - 1) * w, *below = in + clamp(y + whole + 1, 0, h - 1) * w;
        const pixel *first = in + clamp(y - whole, 0, h - 1) * w;
        for (int64_t x = 0; x < w; x++) {
            const uint32_t total = (sums[x] << 16) + fraction * ((uint32_t)above[x] + below[x]) + weight / 2;
            out[y * w + x] = (pixel)(((uint64_t)total * factor) >> (30 + bits));
            sums[x] += (uint32_t)below[x] - first[x];
        }
    }
}

/* Three passes along the rows, then three along the columns. `room` has room for two planes and a row or column of sums. */
static void blur(const pixel *image, pixel *out, pixel *room, int64_t h, int64_t w, int64_t radius) {
    const int64_t size = h * w;
    pixel *a = room, *b = room + size;
    uint32_t *sums = (uint32_t *)(room + ((2 * size + 3) & ~(int64_t)3));
    for (int p = 0; p < 3; p++, image += size, out += size) {
        transpose(image, a, h, w);
        box_columns(a, b, sums, w, h, radius), box_columns(b, a, sums, w, h, radius), box_columns(a, b, sums, w, h, radius);
        transpose(b, a, w, h);
        box_columns(a, b, sums, h, w, radius), box_columns(b, a, sums, h, w, radius), box_columns(a, out, sums, h, w, radius);
    }
}

static inline pixel blended(int32_t base, int32_t value, int32_t factor) { return to_pixel(base + ((factor * (value - base)) >> 16)); }

static void sharpen(const pixel *image, pixel *out, int64_t h, int64_t w, int32_t factor) {
    for (int p = 0; p < 3; p++, image += h * w, out += h * w) {
        memcpy(out, image, h * w);
        for (int64_t y = 1; y < h - 1; y++) {
            const pixel *a = image + (y - 1) * w, *b = a + w, *c = b + w;
            for (int64_t x = 1; x < w - 1; x++) {
                const int32_t total = a[x - 1] + a[x] + a[x + 1] + b[x - 1] + 5 * b[x] + b[x + 1] + c[x - 1] + c[x] + c[x + 1];
                out[y * w + x] = blended((2 * total + 13) / 26, b[x], factor);
            }
        }
    }
}

static inline int32_t luma(const pixel *image, int64_t size, int64_t i) {
    return (image[i] * 19595 + image[size + i] * 38470 + image[2 * size + i] * 7471 + 0x8000) >> 16;
}

static int64_t luma_sum(const pixel *image, int64_t size) {
    int64_t sum = 0;
    for (int64_t i = 0; i < size; i++) sum += luma(image, size, i);
    return sum;
}

static void blend_grey(const pixel *image, pixel *out, int64_t size, int32_t factor) {
    for (int64_t i = 0; i < size; i++) {
        const int32_t grey = luma(image, size, i);
        for (int p = 0; p < 3; p++) out[p * size + i] = blended(grey, image[p * size + i], factor);
    }
}

static void histograms(const pixel *image, int64_t *out, int64_t size) {
    memset(out, 0, 3 * 256 * sizeof *out);
    for (int p = 0; p < 3; p++, image += size, out += 256)
        for (int64_t i = 0; i < size; i++) out[image[i]]++;
}

static void look_up(const pixel *image, pixel *out, const pixel *tables, int64_t size) {
    for (int p = 0; p < 3; p++, image += size, out += size, tables += 256)
        for (int64_t i = 0; i < size; i++) out[i] = tables[image[i]];
}

static void mix(const pixel *own, const pixel *other, pixel *out, int64_t size, int32_t lam) {
    for (int64_t i = 0; i < size; i++) out[i] = (pixel)(((uint32_t)(own[i] * lam + other[i] * (255 - lam) + 127) * 32897u) >> 23);
}

/* What Python calls. Each takes the arrays of the op, then its numbers. */

typedef struct {
    Py_buffer all[4];
    int count;
} Arrays;

static void release(Arrays *arrays) {
    while (arrays->count) PyBuffer_Release(&arrays->all[--arrays->count]);
}

/* Take `count` arrays from the front of the arguments, the second of which is written to, and the numbers behind them. */
static int take(PyObject *arguments, Arrays *arrays, int count, long long *numbers, int number_count) {
    arrays->count = 0;
    if (PyTuple_Size(arguments) != count + number_count) {
        PyErr_SetString(PyExc_TypeError, "another number of arguments");
        return 0;
    }
    for (int i = 0; i < count; i++) {
        if (PyObject_GetBuffer(PyTuple_GetItem(arguments, i), &arrays->all[i], i == 1 ? PyBUF_WRITABLE : PyBUF_SIMPLE)) {
            release(arrays);
            return 0;
        }
        arrays->count++;
    }
    for (int i = 0; i < number_count; i++) {
        numbers[i] = PyLong_AsLongLong(PyTuple_GetItem(arguments, count + i));
        if (numbers[i] == -1 && PyErr_Occurred()) {
            release(arrays);
            return 0;
        }
    }
    return 1;
}

/* The lengths in bytes that the arrays must have. */
static int fits(Arrays *arrays, const int64_t *bytes) {
    for (int i = 0; i < arrays->count; i++)
        if (arrays->all[i].len != bytes[i]) {
            release(arrays);
            PyErr_SetString(PyExc_ValueError, "an array of another size");
            return 0;
        }
    return 1;
}

static PyObject *done(Arrays *arrays, int memory) {
    release(arrays);
    if (!memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

#define ARRAY(i) ((void *)arrays.all[i].buf)
#define OP(name, array_count, number_count, ...)                                                                                   \
    static PyObject *py_##name(PyObject *self, PyObject *arguments) {                                                              \
        Arrays arrays;                                                                                                             \
        long long n[number_count];                                                                                                 \
        int memory = 1;                                                                                                            \
        (void)self;                                                                                                                \
        if (!take(arguments, &arrays, array_count, n, number_count)) return NULL;                                                  \
        __VA_ARGS__                                                                                                                \
        return done(&arrays, memory);                                                                                              \
    }
#define NEEDS(what)                                                                                                                \
    if (!(what)) {                                                                                                                 \
        release(&arrays);                                                                                                          \
        PyErr_SetString(PyExc_ValueError, "another range: " #what);                                                                \
        return NULL;                                                                                                               \
    }
#define SIZES(...)                                                                                                                 \
    const int64_t sizes[] = {__VA_ARGS__};                                                                                         \
    if (!fits(&arrays, sizes)) return NULL;
#define FREE(...) Py_BEGIN_ALLOW_THREADS __VA_ARGS__ Py_END_ALLOW_THREADS

/* image, out, table, fill; height, width, taps, cos, sin */
OP(rotate, 4, 5, NEEDS(n[2] == 1 || n[2] == 2 || n[2] == 4) SIZES(3 * n[0] * n[1], 3 * n[0] * n[1], 2 * PHASES * n[2], 3)
   FREE(rotate(ARRAY(0), ARRAY(1), n[0], n[1], n[3], n[4], ARRAY(2), (int)n[2], ARRAY(3));))

/* image, out, table, offset; rows, length, taps, offsets, fill as 0xRRGGBB */
OP(shift_rows, 4, 5, NEEDS((n[2] == 1 || n[2] == 2 || n[2] == 4) && (n[3] == 1 || n[3] == n[0])) SIZES(3 * n[0] * n[1], 3 * n[0] * n[1], 2 * PHASES * n[2], 8 * n[3])
   const pixel fill[3] = {(pixel)(n[4] >> 16), (pixel)(n[4] >> 8), (pixel)n[4]};
   FREE(pixel *line = malloc(n[1] + 3); memory = line != NULL;
        if (line) shift_rows(ARRAY(0), ARRAY(1), line, n[0], n[1], ARRAY(3), n[3] > 1, ARRAY(2), (int)n[2], fill);
        free(line);))

/* image, out; height, width, radius */
OP(blur, 2, 3, NEEDS(n[2] >= 0 && n[2] <= 16 * Q16) SIZES(3 * n[0] * n[1], 3 * n[0] * n[1])
   FREE(pixel *room = malloc(2 * n[0] * n[1] + 4 + 4 * (n[0] > n[1] ? n[0] : n[1])); memory = room != NULL;
        if (room) blur(ARRAY(0), ARRAY(1), room, n[0], n[1], n[2]);
        free(room);))

/* image, out; height, width, factor */
OP(sharpen, 2, 3, NEEDS(n[2] == (int32_t)n[2]) SIZES(3 * n[0] * n[1], 3 * n[0] * n[1]) FREE(sharpen(ARRAY(0), ARRAY(1), n[0], n[1], (int32_t)n[2]);))

/* image, out; pixels of a channel, factor */
OP(blend_grey, 2, 2, NEEDS(n[1] == (int32_t)n[1]) SIZES(3 * n[0], 3 * n[0]) FREE(blend_grey(ARRAY(0), ARRAY(1), n[0], (int32_t)n[1]);))

/* image, int64 out of one number; pixels of a channel */
OP(luma_sum, 2, 1, SIZES(3 * n[0], 8) FREE(*(int64_t *)ARRAY(1) = luma_sum(ARRAY(0), n[0]);))

/* image, int64 out [3, 256]; pixels of a channel */
OP(histograms, 2, 1, SIZES(3 * n[0], 3 * 256 * 8) FREE(histograms(ARRAY(0), ARRAY(1), n[0]);))

/* image, out, tables [3, 256]; pixels of a channel */
OP(look_up, 3, 1, SIZES(3 * n[0], 3 * n[0], 3 * 256) FREE(look_up(ARRAY(0), ARRAY(1), ARRAY(2), n[0]);))

/* own, out, other; pixels in all, lam */
OP(mix, 3, 2, SIZES(n[0], n[0], n[0]) FREE(mix(ARRAY(0), ARRAY(2), ARRAY(1), n[0], (int32_t)n[1]);))

#define ENTRY(name) {#name, py_##name, METH_VARARGS, NULL}
static PyMethodDef methods[] = {ENTRY(rotate),     ENTRY(shift_rows), ENTRY(blur),    ENTRY(sharpen), ENTRY(blend_grey),
                                ENTRY(luma_sum), ENTRY(histograms), ENTRY(look_up), ENTRY(mix),     {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", "Ops in C; see kernels.py.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) {
    const char *wanted = getenv("REINFORCE_KERNELS");
    if (wanted && !strcmp(wanted, "numpy")) {
        PyErr_SetString(PyExc_ImportError, "REINFORCE_KERNELS=numpy");
        return NULL;
    }
    return PyModule_Create(&module);
}
