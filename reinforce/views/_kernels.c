/* Kernels: the ops of ops.py and mix.py that take longest in numpy, with the same bits, and what Python calls. Those of warp.py are
in _warps.c.

The numpy code is the definition; tests/views/test_exact.py compares both with plain integer arithmetic. Here, too, everything is
integers, so neither the compiler nor the instruction set changes a bit. The caller has checked shapes, and gives arrays
that are contiguous; the interpreter's lock is released. REINFORCE_KERNELS=numpy makes the import fail, as if nothing was built. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdlib.h>
#include <string.h>

#include "_kernels.h"

/* One pass of a box along the columns. A quotient of n < 2^30 by `weight` < 2^bits is n * factor >> (30 + bits), exactly. */
static void box_columns(const pixel *in, pixel *restrict out, uint16_t *restrict sums, int64_t h, int64_t w, int64_t radius) {
    const int64_t whole = radius >> 16;
    const uint16_t fraction = (uint16_t)(radius & (Q16 - 1));
    const uint32_t weight = (uint32_t)(2 * radius + Q16);
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
            const uint16_t ends = (uint16_t)(above[x] + below[x]);
            const uint32_t total = ((uint32_t)sums[x] << 16) + (uint32_t)fraction * ends + weight / 2;
            out[y * w + x] = (pixel)(((uint64_t)total * factor) >> (30 + bits));
            sums[x] += (uint16_t)(below[x] - first[x]);
        }
    }
}

/* Three passes along the rows, then three along the columns. `room` has room for two planes and a row or column of sums. */
static void blur(const pixel *image, pixel *out, pixel *room, int64_t h, int64_t w, int64_t radius) {
    const int64_t size = h * w;
    pixel *a = room, *b = room + size;
    uint16_t *sums = (uint16_t *)(room + 2 * size);
    for (int p = 0; p < 3; p++, image += size, out += size) {
        transpose(image, a, h, w);
        box_columns(a, b, sums, w, h, radius), box_columns(b, a, sums, w, h, radius), box_columns(a, b, sums, w, h, radius);
        transpose(b, a, w, h);
        box_columns(a, b, sums, h, w, radius), box_columns(b, a, sums, h, w, radius), box_columns(a, out, sums, h, w, radius);
    }
}

/* out + (factor (value - out) >> 16). Up to 126 times the difference, all is in 16 bits; no policy draws more. */
static void blend(pixel *restrict out, const pixel *restrict value, int64_t length, int32_t factor) {
    const int64_t whole = ((int64_t)factor + (1 << 15)) >> 16;
    const int16_t high = (int16_t)whole, low = (int16_t)(factor - whole * Q16);
    if (whole < -126 || whole > 126) {
        for (int64_t x = 0; x < length; x++) out[x] = to_pixel(out[x] + ((factor * (value[x] - out[x])) >> 16));
        return;
    }
    for (int64_t x = 0; x < length; x++) {
        const int16_t more = (int16_t)(value[x] - out[x]), v = (int16_t)(out[x] + high * more + (((int32_t)low * more) >> 16));
        const int16_t floor = v < 0 ? 0 : v;
        out[x] = (pixel)(floor > 255 ? 255 : floor);
    }
}

/* The mean of nine pixels, of which the middle one counts five times; n / 26 is n * 40330 >> 20 up to 2^18. */
static void smooth_row(const pixel *a, const pixel *b, const pixel *c, pixel *restrict out, int64_t length) {
    for (int64_t x = 0; x < length; x++) {
        const uint16_t total = (uint16_t)(a[x] + a[x + 1] + a[x + 2] + b[x] + 5 * b[x + 1] + b[x + 2] + c[x] + c[x + 1] + c[x + 2]);
        const uint16_t n = (uint16_t)(2 * total + 13);
        out[x] = (pixel)((uint16_t)(((uint32_t)n * 40330) >> 16) >> 4);
    }
}

static void sharpen(const pixel *image, pixel *out, int64_t h, int64_t w, int32_t factor) {
    memcpy(out, image, 3 * h * w);
    for (int p = 0; p < 3; p++, image += h * w, out += h * w)
        for (int64_t y = 1; y < h - 1; y++) {
            const pixel *line = image + y * w;
            smooth_row(line - w, line, line + w, out + y * w + 1, w - 2);
            blend(out + y * w + 1, line + 1, w - 2, factor);
        }
}

static inline uint32_t part(pixel value, uint16_t weight) { return (uint32_t)(uint16_t)value * weight; }
static inline uint32_t luma(pixel red, pixel green, pixel blue) {
    return (part(red, 19595) + part(green, 38470) + part(blue, 7471) + 0x8000) >> 16;
}

static int64_t luma_sum(const pixel *image, int64_t size) {
    int64_t sum = 0;
    for (int64_t i = 0, end; i < size;) {
        uint32_t some = 0; /* it holds the sum of 2^24 pixels */
        for (end = clamp(size, 0, i + (1 << 24)); i < end; i++) some += luma(image[i], image[size + i], image[2 * size + i]);
        sum += some;
    }
    return sum;
}

static void blend_grey(const pixel *image, pixel *restrict out, int64_t size, int32_t factor) {
    for (int64_t i = 0; i < size; i++) out[i] = (pixel)luma(image[i], image[size + i], image[2 * size + i]);
    memcpy(out + size, out, size), memcpy(out + 2 * size, out, size);
    blend(out, image, 3 * size, factor);
}

/* Four counts side by side, because to count equal neighbours in one place is to wait for it. */
static void histograms(const pixel *image, int64_t *out, int64_t size) {
    for (int p = 0; p < 3; p++, image += size, out += 256) {
        int64_t counts[4][256] = {{0}}, i = 0;
        for (; i + 4 <= size; i += 4)
            for (int k = 0; k < 4; k++) counts[k][image[i + k]]++;
        for (; i < size; i++) counts[0][image[i]]++;
        for (int v = 0; v < 256; v++) out[v] = counts[0][v] + counts[1][v] + counts[2][v] + counts[3][v];
    }
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
#define AN_IMAGE n[0] > 0 && n[1] > 0 && n[0] < 1 << 24 && n[1] < 1 << 24
#define FREE(...) Py_BEGIN_ALLOW_THREADS __VA_ARGS__ Py_END_ALLOW_THREADS

/* image, out, table, fill; height, width, taps, cos, sin */
OP(rotate, 4, 5, NEEDS(AN_IMAGE && (n[2] == 1 || n[2] == 2 || n[2] == 4)) SIZES(3 * n[0] * n[1], 3 * n[0] * n[1], 2 * PHASES * n[2], 3)
   FREE(uint64_t *packed = malloc(8 * (n[0] + 2 * MARGIN) * (n[1] + 2 * MARGIN)); memory = packed != NULL;
        if (packed) rotate(ARRAY(0), ARRAY(1), packed, n[0], n[1], n[3], n[4], ARRAY(2), (int)n[2], ARRAY(3));
        free(packed);))

/* image, out, table, offset; rows, length, taps, offsets, fill as 0xRRGGBB */
OP(shift_rows, 4, 5, NEEDS(AN_IMAGE && (n[2] == 1 || n[2] == 2 || n[2] == 4) && (n[3] == 1 || n[3] == n[0])) SIZES(3 * n[0] * n[1], 3 * n[0] * n[1], 2 * PHASES * n[2], 8 * n[3])
   const pixel fill[3] = {(pixel)(n[4] >> 16), (pixel)(n[4] >> 8), (pixel)n[4]};
   FREE(pixel *line = malloc(n[1] + 3); memory = line != NULL;
        if (line) shift_rows(ARRAY(0), ARRAY(1), line, n[0], n[1], ARRAY(3), n[3] > 1, ARRAY(2), (int)n[2], fill);
        free(line);))

/* image, out [3, width, height]; height, width */
OP(transpose, 2, 2, NEEDS(AN_IMAGE) SIZES(3 * n[0] * n[1], 3 * n[0] * n[1])
   FREE(for (int p = 0; p < 3; p++) transpose((pixel *)ARRAY(0) + p * n[0] * n[1], (pixel *)ARRAY(1) + p * n[0] * n[1], n[0], n[1]);))

/* image, out, table, fill; height, width, taps, offset */
OP(shift_columns, 4, 4, NEEDS(AN_IMAGE && (n[2] == 1 || n[2] == 2 || n[2] == 4)) SIZES(3 * n[0] * n[1], 3 * n[0] * n[1], 2 * PHASES * n[2], 3)
   FREE(shift_columns(ARRAY(0), ARRAY(1), n[0], n[1], n[3], ARRAY(2), (int)n[2], ARRAY(3));))

/* image, out; height, width, radius */
OP(blur, 2, 3, NEEDS(AN_IMAGE && n[2] >= 0 && n[2] <= 16 * Q16) SIZES(3 * n[0] * n[1], 3 * n[0] * n[1])
   FREE(pixel *room = malloc(2 * (n[0] * n[1] + (n[0] > n[1] ? n[0] : n[1]))); memory = room != NULL;
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
static PyMethodDef methods[] = {ENTRY(rotate),     ENTRY(shift_rows), ENTRY(shift_columns), ENTRY(blur),
                                ENTRY(sharpen),    ENTRY(blend_grey), ENTRY(luma_sum),      ENTRY(histograms),
                                ENTRY(look_up),    ENTRY(mix),        ENTRY(transpose),     {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", "Ops in C; see kernels.py.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) {
    const char *wanted = getenv("REINFORCE_KERNELS");
    if (wanted && !strcmp(wanted, "numpy")) {
        PyErr_SetString(PyExc_ImportError, "REINFORCE_KERNELS=numpy");
        return NULL;
    }
    return PyModule_Create(&module);
}
