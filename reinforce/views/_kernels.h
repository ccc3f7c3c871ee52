/* What _kernels.c and _warps.c share. */

#include <stdint.h>

#define ONE_BITS 17 /* one pixel, in position units */
#define Q16 ((int64_t)1 << 16)
#define PHASES 256
#define MARGIN 2 /* how far a rotation repeats edge pixels */

typedef uint8_t pixel;

static inline int64_t clamp(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }
static inline pixel to_pixel(int32_t v) { return (pixel)(v < 0 ? 0 : v > 255 ? 255 : v); }

/* `packed` has room for (h + 2 MARGIN) (w + 2 MARGIN) numbers. */
void rotate(const pixel *image, pixel *out, uint64_t *packed, int64_t h, int64_t w, int64_t cos, int64_t sin, const int16_t *table,
            int taps, const pixel *fill);

/* Move each row along itself: the pixel at x comes from x + offset. `line` has room for length + 3 pixels. */
void shift_rows(const pixel *image, pixel *out, pixel *line, int64_t rows, int64_t length, const int64_t *offset, int each,
                const int16_t *table, int taps, const pixel *fill);

/* Move all columns along themselves: the pixel at y comes from y + offset. */
void shift_columns(const pixel *image, pixel *out, int64_t h, int64_t w, int64_t offset, const int16_t *table, int taps,
                   const pixel *fill);

/* One channel: in [h, w], out [w, h]. */
void transpose(const pixel *in, pixel *out, int64_t h, int64_t w);
