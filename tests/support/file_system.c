/* A file system that lacks features, for LD_PRELOAD: LACKS names what is refused, separated by spaces.
 *
 * flock ENOSYS, ENOLCK or EOPNOTSUPP (flock38, flock37, flock95); nolink: hard links; norename: a rename that replaces
 * nothing; dirsync: fsync of folders; nochmod: permissions and owners; nomodes: all files seem to be 0755.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int lacks(const char *feature) {
    const char *all = getenv("LACKS");
    return all && strstr(all, feature);
}

static int refuse(int number) {
    errno = number;
    return -1;
}

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

int flock(int fd, int operation) {
    if (lacks("flock38")) return refuse(ENOSYS);
    if (lacks("flock37")) return refuse(ENOLCK);
    if (lacks("flock95")) return refuse(EOPNOTSUPP);
    return NEXT(int (*)(int, int), "flock")(fd, operation);
}

int link(const char *from, const char *to) {
    return lacks("nolink") ? refuse(EPERM) : NEXT(int (*)(const char *, const char *), "link")(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    if (lacks("nolink")) return refuse(EPERM);
    return NEXT(int (*)(int, const char *, int, const char *, int), "linkat")(a, from, b, to, flags);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned int flags) {
    if (lacks("norename")) return refuse(EINVAL);
    return NEXT(int (*)(int, const char *, int, const char *, unsigned int), "renameat2")(a, from, b, to, flags);
}

int fsync(int fd) {
    struct stat found;
    if (lacks("dirsync") && !fstat(fd, &found) && S_ISDIR(found.st_mode)) return refuse(EINVAL);
    return NEXT(int (*)(int), "fsync")(fd);
}

int fchmod(int fd, mode_t mode) {
    return lacks("nochmod") ? refuse(EPERM) : NEXT(int (*)(int, mode_t), "fchmod")(fd, mode);
}

int chmod(const char *path, mode_t mode) {
    return lacks("nochmod") ? refuse(EPERM) : NEXT(int (*)(const char *, mode_t), "chmod")(path, mode);
}

int chown(const char *path, uid_t owner, gid_t group) {
    return lacks("nochmod") ? refuse(EPERM) : NEXT(int (*)(const char *, uid_t, gid_t), "chown")(path, owner, group);
}

static int shown(int result, mode_t *mode) {
    if (result == 0 && lacks("nomodes")) *mode = (*mode & ~07777) | 0755;
    return result;
}

/* Programs call these under one name or the other; on 64-bit systems both do the same. */
#define SHOW(number)                                                                                                \
    int fstat##number(int fd, struct stat##number *found) {                                                         \
        int (*next)(int, struct stat##number *) = dlsym(RTLD_NEXT, "fstat" #number);                                \
        return shown(next(fd, found), &found->st_mode);                                                             \
    }                                                                                                               \
    int stat##number(const char *path, struct stat##number *found) {                                                \
        int (*next)(const char *, struct stat##number *) = dlsym(RTLD_NEXT, "stat" #number);                        \
        return shown(next(path, found), &found->st_mode);                                                           \
    }                                                                                                               \
    int lstat##number(const char *path, struct stat##number *found) {                                               \
        int (*next)(const char *, struct stat##number *) = dlsym(RTLD_NEXT, "lstat" #number);                       \
        return shown(next(path, found), &found->st_mode);                                                           \
    }                                                                                                               \
    int fstatat##number(int fd, const char *path, struct stat##number *found, int flags) {                          \
        int (*next)(int, const char *, struct stat##number *, int) = dlsym(RTLD_NEXT, "fstatat" #number);           \
        return shown(next(fd, path, found, flags), &found->st_mode);                                                \
    }

SHOW()
SHOW(64)
