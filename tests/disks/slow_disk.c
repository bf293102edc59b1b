/* Preloaded into ranks: while the file LOCKSTEP_SLOW_WHILE exists, each write and flush below LOCKSTEP_SLOW_FOLDER takes
   LOCKSTEP_SLOW_MILLISECONDS longer, as on a disk that others keep busy. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static void wait_if_slow(int fd) {
  const char *folder = getenv("LOCKSTEP_SLOW_FOLDER"), *flag = getenv("LOCKSTEP_SLOW_WHILE");
  const char *milliseconds = getenv("LOCKSTEP_SLOW_MILLISECONDS");
  char link[64], path[4096];
  if (!folder || !flag || !milliseconds || access(flag, F_OK) != 0) return;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return;
  path[length] = 0;
  if (strncmp(path, folder, strlen(folder)) == 0) usleep(1000 * atoi(milliseconds));
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) {
  wait_if_slow(fd);
  return REAL(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  wait_if_slow(fd);
  return REAL(writev)(fd, parts, count);
}

int fsync(int fd) {
  wait_if_slow(fd);
  return REAL(fsync)(fd);
}
