/* A clock that is off: cc -shared -fPIC -o clock.so clock.c; LD_PRELOAD=clock.so CLOCK_OFF=-7200 COMMAND
 *
 * Shifts the time of day of a process, of its Java and of all that they start by CLOCK_OFF seconds. Clocks that only
 * measure how long something takes are left alone, as they are on a machine whose time of day is wrong.
 */
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long seconds_off(void) {
    static long off, known;
    if (!known) {
        const char *text = getenv("CLOCK_OFF");
        off = text ? atol(text) : 0;
        known = 1;
    }
    return off;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += seconds_off();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (result) *result = exact.tv_sec;
    return exact.tv_sec;
}
