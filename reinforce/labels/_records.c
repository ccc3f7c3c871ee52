/* Records: what sqrt.py and topk.py read from the bytes of a record, with the same bits.

The Python code is the definition; tests/labels/test_compiled.py compares both. Bytes come from strangers: every length, place and
class id is checked before it is used, and for whatever is not as FORMAT.md has it the answer is None, upon which the Python code
says what is wrong. Sums are of whole numbers; the few operations on floats are those of numpy, one by one, so that the order of
nothing matters. REINFORCE_KERNELS=numpy makes the import fail, as if nothing had been built. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(FLT_EVAL_METHOD) || FLT_EVAL_METHOD != 0
#error "floats are rounded elsewhere than in numpy: the Python code has to run"
#endif

typedef uint8_t byte;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static inline uint32_t little(const byte *at, int bytes) {
    const uint32_t low = at[0] | (uint32_t)at[1] << 8;
    return bytes == 2 ? low : low | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* What Python is given: a tuple of `count` places, of which the first one is a bytearray for all arrays, which begin at `at`. */
static PyObject *room(int64_t bytes, int64_t count, byte **at) {
    PyObject *made = PyTuple_New((Py_ssize_t)count), *data = made ? PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)bytes) : NULL;
    if (data && !PyTuple_SetItem(made, 0, data)) {
        *at = (byte *)PyByteArray_AsString(data);
        return made;
    }
    Py_XDECREF(made);
    return NULL;
}

/* 0: `item` is none, as there is no memory. */
static int put(PyObject *made, int64_t at, PyObject *item) { return !PyTuple_SetItem(made, (Py_ssize_t)at, item) && item; }

/* What was made, if it is good, or else None; `failed`: an error, of memory if none is set. */
static PyObject *answer(PyObject *made, int good, int failed) {
    if (good && !failed) return made;
    Py_XDECREF(made);
    if (!failed) return Py_NewRef(Py_None);
    return PyErr_Occurred() ? NULL : PyErr_NoMemory();
}

/* sqrt */

enum { SKIP = 128, RAISE = 127, END = 255, ONE = 128, OTHERS = 3 * ONE / 8, RISE = ONE / 2, GROUP = 192 };

typedef struct {
    const byte *ids, *levels, *steps, *tokens, *end;
    int64_t id_bytes, classes, views, num_classes;
    int floor, one;
} Body;

/* The size of the content that the header of a frame states (RFC 8878, without the magic number); -1: it states none. */
static int64_t stated_size(const byte *frame, int64_t size) {
    static const int dictionary_bytes[] = {0, 1, 2, 4}, size_bytes[] = {0, 2, 4, 8};
    if (size < 1 || frame[0] & 8) return -1;
    const int single = frame[0] >> 5 & 1, bytes = frame[0] >> 6 ? size_bytes[frame[0] >> 6] : single;
    const int at = 1 + !single + dictionary_bytes[frame[0] & 3];
    if (!bytes || size < at + bytes) return -1;
    uint64_t stated = bytes == 2 ? 256 : 0;
    for (int i = 0; i < bytes; i++) stated += (uint64_t)frame[at + i] << 8 * i;
    return stated > INT64_MAX ? -1 : (int64_t)stated;
}

/* How many of n bytes are `value`; a byte holds the sum of a group, so that compilers make vectors of the loop. */
static int64_t count_of(byte value, const byte *at, int64_t n) {
    int64_t total = 0;
    for (; n > 0; at += GROUP, n -= GROUP) {
        byte sum = 0;
        for (int64_t i = 0; i < least(GROUP, n); i++) sum += at[i] == value;
        total += sum;
    }
    return total;
}

/* Behind the next `count` ends of views, which must be there. */
static const byte *behind(const byte *at, const byte *end, int64_t count) {
    int64_t found;
    for (; count && (found = count_of(END, at, least(GROUP, end - at))) < count; at += GROUP) count -= found;
    for (; count; at++) count -= *at == END;
    return at;
}

/* The parts of a content. 0: it is not one, but for class ids that are too high, which are seen when they are written out. */
static int parts(const byte *content, int64_t size, Body *b) {
    const int width = b->num_classes <= 1 << 16 ? 2 : 4;
    if (size < 2 + width) return 0;
    b->floor = content[0], b->one = content[1], b->id_bytes = little(content + 2, width);
    b->ids = content + 2 + width, b->end = content + size;
    if (!b->one || b->id_bytes > b->end - b->ids) return 0;
    b->levels = b->ids + b->id_bytes;
    b->classes = b->id_bytes - count_of(0, b->ids, b->id_bytes);
    if (b->classes > b->num_classes || b->classes + b->views >= b->end - b->levels) return 0;
    b->steps = b->levels + b->classes, b->tokens = b->steps + b->views;
    return b->end[-1] == END && count_of(END, b->tokens, b->end - b->tokens) == b->views;
}

/* Class ids, rising. 0: one is too high. */
static int class_ids(const Body *b, int64_t *ids) {
    int64_t id = -1;
    for (int64_t i = 0; i < b->id_bytes; i++) {
        id += b->ids[i] ? b->ids[i] : 255;
        if (b->ids[i]) *ids++ = id;
    }
    return !b->classes || ids[-1] < b->num_classes;
}

/* The class id of each place: by rising level, equal levels by rising id. */
static void by_level(const Body *b, const int64_t *ids, int64_t *places) {
    uint32_t starts[257] = {0};
    for (int64_t i = 0; i < b->classes; i++) starts[b->levels[i] + 1]++;
    for (int64_t level = 0, left = b->classes; left; level++) left -= starts[level + 1], starts[level + 1] += starts[level];
    for (int64_t i = 0; i < b->classes; i++) places[starts[b->levels[i]]++] = ids[i];
}

/* One view, whose tokens begin at `at`: ids and probabilities of the classes kept. Returns how many; -1: tokens that lead nowhere.
   Values are whole in units of 1/128, below 2^24, and so are their sums, below 2^53. */
static int64_t label(const Body *b, const byte *at, const int64_t *places, double others, int64_t *ids, float *probs,
                     double *remainder) {
    int64_t place = -1, kept = 0, first = 0, sum = 0;
    int highest = 0;
    for (; *at != END; at++) {
        if (*at < SKIP) {
            place += *at + 1;
            if (place >= b->classes) return -1;
            ids[kept] = places[place], probs[kept++] = (float)b->one, sum += b->one;
        } else if (*at > SKIP) {
            if (!kept) return -1;
            const int64_t symbol = *at - RAISE, value = symbol * symbol * ONE - OTHERS;
            sum += value - (int64_t)probs[kept - 1], probs[kept - 1] = (float)value;
            if (*at > highest) highest = *at, first = kept - 1;
        } else {
            place += SKIP;
        }
    }
    *remainder = !kept ? 1.0 : kept < b->num_classes ? others : 0.0;
    if (highest) probs[first] += RISE, sum += RISE;
    const float scale = kept ? (float)((1 - *remainder) / ((double)sum / ONE)) : 0;
    for (int64_t i = 0; i < kept; i++) probs[i] = probs[i] / ONE * scale;
    return kept;
}

/* Views first to first + count: (a bytearray, classes, floor, then kept and remainder of each). It has int64 [classes], the tail's,
   then of all these views int64 [kept] and float32 [kept], then uint8 [classes]. */
static PyObject *read_views(const Body *b, int64_t first, int64_t count, const double *others) {
    const byte *from = behind(b->tokens, b->end, first), *at = from;
    int64_t most = 0, found;
    for (int64_t left = count; left; at++) left -= *at == END, most += *at < SKIP;
    byte *out;
    PyObject *made = room(9 * b->classes + 12 * most, 3 + 2 * count, &out);
    int64_t *places = malloc(8 * (b->classes + 1));
    int good = 1, failed = !made || !places || !put(made, 1, PyLong_FromLongLong(b->classes)) || !put(made, 2, PyLong_FromLong(b->floor));
    if (!failed) {
        int64_t *tail = (int64_t *)out, *ids = tail + b->classes;
        float *probs = (float *)(ids + most);
        memcpy(probs + most, b->levels, b->classes);
        if ((good = class_ids(b, tail))) by_level(b, tail, places);
        for (int64_t i = 0; good && !failed && i < count; i++, from = behind(from, b->end, 1), ids += found, probs += found) {
            double remainder = 0;
            found = label(b, from, places, others[b->steps[first + i]], ids, probs, &remainder);
            good = found >= 0;
            failed = !put(made, 3 + 2 * i, PyLong_FromLongLong(found)) || !put(made, 4 + 2 * i, PyFloat_FromDouble(remainder));
        }
    }
    free(places);
    return answer(made, good, failed);
}

/* topk */

/* A half float in units of 2^-24, which is whole; -1: negative or not finite. */
static int64_t half(uint32_t bits) {
    const int exponent = bits >> 10 & 31;
    if (exponent == 31 || bits > 0x8000) return -1;
    return exponent ? (int64_t)((bits & 1023) | 1024) << (exponent - 1) : (int64_t)(bits & 1023);
}

/* One row of k classes. `seen` has a bit for each class, all 0 before and after. 0: no distribution. */
static int row(const byte *stored_ids, const byte *halves, int64_t k, int64_t num_classes, byte *seen, int64_t *ids, float *probs,
               double *remainder) {
    const int width = num_classes <= 1 << 16 ? 2 : 4;
    int64_t sum = 0, i = 0;
    for (; i < k; i++) {
        const uint32_t id = little(stored_ids + i * width, width), bits = little(halves + 2 * i, 2);
        const int64_t value = half(bits);
        if (id >= num_classes || value < 0 || sum > 1 << 24 || seen[id / 8] >> id % 8 & 1) break;
        seen[id / 8] |= 1 << id % 8;
        ids[i] = id, sum += value;
        probs[i] = (float)value / (1 << 24) * (bits >> 15 ? -1 : 1);
    }
    for (int64_t j = 0; j < i; j++) seen[ids[j] / 8] = 0;
    if (i < k || sum > 1 << 24) return 0;
    const double total = (double)sum / (1 << 24);
    *remainder = k < num_classes ? 1.0 - total : 0.0;
    if (k == num_classes)
        for (i = 0; i < k; i++) probs[i] = total > 0 ? (float)(probs[i] / total) : (float)(1.0 / (double)k);
    return 1;
}

/* Rows first to first + count: (a bytearray, then the remainder of each); it has int64 [count, k] and float32 [count, k]. */
static PyObject *read_rows(const byte *record, int64_t first, int64_t count, int64_t views, int64_t num_classes, int64_t k) {
    const int64_t width = num_classes <= 1 << 16 ? 2 : 4;
    const byte *ids = record + first * k * width, *halves = record + views * k * width + first * k * 2;
    byte *out, *seen = calloc(num_classes / 8 + 1, 1);
    PyObject *made = room(12 * count * k, 1 + count, &out);
    int good = 1, failed = !made || !seen;
    for (int64_t i = 0; good && !failed && i < count; i++) {
        double remainder = 0;
        good = row(ids + i * k * width, halves + i * k * 2, k, num_classes, seen, (int64_t *)out + i * k,
                   (float *)(out + 8 * count * k) + i * k, &remainder);
        failed = !put(made, 1 + i, PyFloat_FromDouble(remainder));
    }
    free(seen);
    return answer(made, good, failed);
}

/* What Python calls. The interpreter's lock is kept: a view takes a microsecond or two. */

/* The numbers behind the first argument: views first to first + count of `views`, and classes, and for topk k. 0: not what is read
   here; if another number of arguments or another type, an error is set. */
static int numbers(PyObject *const *arguments, Py_ssize_t given, Py_ssize_t wanted, int64_t *n) {
    if (given != wanted) {
        PyErr_SetString(PyExc_TypeError, "another number of arguments");
        return 0;
    }
    for (int i = 0; i < 5; i++) {
        n[i] = PyLong_AsLongLong(arguments[1 + i]);
        if (n[i] == -1 && PyErr_Occurred()) return 0;
    }
    return n[0] >= 0 && n[1] > 0 && n[1] <= n[2] && n[0] <= n[2] - n[1] && n[2] <= 1 << 24 && n[3] > 0 && n[3] <= 1 << 24 && n[4] > 0;
}

/* The content of a record by zstd's `decompress`; NULL: there is none, or an error that is not about the record is set. */
static PyObject *opened(PyObject *record, PyObject *decompress, int64_t most) {
    Py_buffer frame;
    if (PyObject_GetBuffer(record, &frame, PyBUF_SIMPLE)) return NULL;
    const int64_t size = stated_size(frame.buf, frame.len);
    PyBuffer_Release(&frame);
    if (size < 0 || size > most) return NULL; /* checked first, as zstd trusts this number */
    PyObject *made = PyObject_CallFunction(decompress, "OiOO", record, 0, Py_False, Py_False);
    if (!made && PyErr_ExceptionMatches(PyExc_Exception)) PyErr_Clear();
    return made;
}

/* record, first, count, views, classes, most bytes of content, zstd's `decompress`, float64 [256] remainders of the steps ->
   see read_views, or None */
static PyObject *py_sqrt(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    int64_t n[5];
    char *data, *others;
    Py_ssize_t size, wide;
    (void)self;
    if (!numbers(arguments, given, 8, n)) return answer(NULL, 0, PyErr_Occurred() != NULL);
    if (PyBytes_AsStringAndSize(arguments[7], &others, &wide)) return NULL;
    if (wide != 256 * sizeof(double)) return PyErr_Format(PyExc_ValueError, "an array of another size");
    PyObject *content = opened(arguments[0], arguments[6], least(n[4], 64 + 3 * n[3] + n[2] * (3 * n[3] + 2))), *made = NULL;
    if (!content) return answer(NULL, 0, PyErr_Occurred() != NULL);
    Body body = {.views = n[2], .num_classes = n[3]};
    if (!PyBytes_AsStringAndSize(content, &data, &size))
        made = parts((byte *)data, size, &body) ? read_views(&body, n[0], n[1], (double *)others) : Py_NewRef(Py_None);
    Py_DECREF(content);
    return made;
}

/* record, first, count, views, classes, k -> see read_rows, or None */
static PyObject *py_topk(PyObject *self, PyObject *const *arguments, Py_ssize_t given) {
    int64_t n[5];
    Py_buffer record;
    (void)self;
    if (!numbers(arguments, given, 6, n) || n[4] > n[3]) return answer(NULL, 0, PyErr_Occurred() != NULL);
    if (PyObject_GetBuffer(arguments[0], &record, PyBUF_SIMPLE)) return NULL;
    const int whole = record.len == n[2] * n[4] * (n[3] <= 1 << 16 ? 4 : 6);
    PyObject *made = whole ? read_rows(record.buf, n[0], n[1], n[2], n[3], n[4]) : Py_NewRef(Py_None);
    PyBuffer_Release(&record);
    return made;
}

#define ENTRY(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {ENTRY(sqrt), ENTRY(topk), {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_records", "In C; see records.py.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__records(void) {
    const char *wanted = getenv("REINFORCE_KERNELS");
    if (wanted && !strcmp(wanted, "numpy")) {
        PyErr_SetString(PyExc_ImportError, "REINFORCE_KERNELS=numpy");
        return NULL;
    }
    return PyModule_Create(&module);
}
