// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A FAKE nvidia-drm.ko for tests, beside the fake nvidia-modeset.ko: it does nothing but need the other, as the real one does.
 */
#include <linux/module.h>

#include "stub.h"

static int __init drm_init(void)
{
	return nvidia_stub_modeset_major() ? 0 : -ENODEV;
}

static void __exit drm_exit(void)
{
}

module_init(drm_init);
module_exit(drm_exit);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("A fake of NVIDIA's driver for tests: no GPU, no NVIDIA code");
MODULE_VERSION(STUB_VERSION);
