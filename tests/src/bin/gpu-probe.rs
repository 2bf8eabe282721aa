//! A program of the CUDA driver API, as a container would bring one, built without a CUDA toolkit:
//! it opens the driver through the loader, compiles PTX for the GPU that is there, adds two vectors
//! on it, checks the sum, and prints which driver files are mapped then.
//!
//! `gpu-probe` prints `KEY VALUE` lines; it exits with 0 if the sum is right. `gpu-probe --stale
//! SONAME FILE` writes a library that has nothing but a SONAME, in place of a stale driver file.

#![allow(missing_docs, reason = "a program")]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr::null_mut;

/// Elements of each vector.
const LENGTH: usize = 1 << 16;
/// Threads of a block.
const BLOCK: c_uint = 256;
/// The kernel: `out[i] = a[i] + b[i]`. For the oldest GPUs that the open modules drive; the driver
/// compiles it for newer ones.
const PTX: &str = "
.version 6.3
.target sm_75
.address_size 64
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 out, .param .u32 n)
{
    .reg .pred %p;
    .reg .f32 %x, %y, %z;
    .reg .b32 %block, %size, %thread, %i, %n;
    .reg .b64 %a, %b, %out, %offset;
    ld.param.u64 %a, [a];
    ld.param.u64 %b, [b];
    ld.param.u64 %out, [out];
    ld.param.u32 %n, [n];
    mov.u32 %block, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mov.u32 %thread, %tid.x;
    mad.lo.s32 %i, %block, %size, %thread;
    setp.ge.u32 %p, %i, %n;
    @%p ret;
    mul.wide.u32 %offset, %i, 4;
    add.s64 %a, %a, %offset;
    add.s64 %b, %b, %offset;
    add.s64 %out, %out, %offset;
    ld.global.f32 %x, [%a];
    ld.global.f32 %y, [%b];
    add.f32 %z, %x, %y;
    st.global.f32 [%out], %z;
    ret;
}
";

type Failure = String;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => probe(),
        ["--stale", soname, file] => {
            std::fs::write(file, rig::elf::library(soname)).map_err(|error| format!("{file}: {error}"))
        }
        _ => Err("expected no argument, or --stale SONAME FILE".into()),
    };
    if let Err(failure) = done {
        eprintln!("gpu-probe: {failure}");
        std::process::exit(1);
    }
}

/// A library that the loader found.
struct Library(*mut c_void);

impl Library {
    fn open(name: &str) -> Result<Self, Failure> {
        let text = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the name ends in a NUL; the library is the driver's, which may be loaded by any
        // program.
        let handle = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if handle.is_null() {
            // SAFETY: dlerror gives a string of the loader's after a failure, or nothing.
            let error = unsafe { libc::dlerror() };
            let text = if error.is_null() {
                "no reason".into()
            } else {
                // SAFETY: checked not to be null; the loader's string ends in a NUL, and it is not
                // kept.
                unsafe { CStr::from_ptr(error) }.to_string_lossy()
            };
            return Err(format!("{name} cannot be opened: {text}"));
        }
        Ok(Self(handle))
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be the type that the library's header gives the function.
    unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, Failure> {
        let text = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the handle is open, the name ends in a NUL.
        let address = unsafe { libc::dlsym(self.0, text.as_ptr()) };
        if address.is_null() {
            return Err(format!("libcuda has no {name}"));
        }
        // SAFETY: the caller answers for the type; function pointers and data pointers have one
        // size here.
        Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }
}

type Status = c_int;
type DevicePointer = u64;

/// The functions of the driver API that are used, with their names in the library (cuda.h).
struct Cuda {
    init: unsafe extern "C" fn(c_uint) -> Status,
    driver_version: unsafe extern "C" fn(*mut c_int) -> Status,
    device: unsafe extern "C" fn(*mut c_int, c_int) -> Status,
    name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status,
    total_memory: unsafe extern "C" fn(*mut usize, c_int) -> Status,
    context: unsafe extern "C" fn(*mut *mut c_void, c_uint, c_int) -> Status,
    module: unsafe extern "C" fn(*mut *mut c_void, *const c_void) -> Status,
    entry: unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *const c_char) -> Status,
    allocate: unsafe extern "C" fn(*mut DevicePointer, usize) -> Status,
    to_device: unsafe extern "C" fn(DevicePointer, *const c_void, usize) -> Status,
    to_host: unsafe extern "C" fn(*mut c_void, DevicePointer, usize) -> Status,
    launch: Launch,
    synchronize: unsafe extern "C" fn() -> Status,
}

type Launch = unsafe extern "C" fn(
    *mut c_void,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> Status;

impl Cuda {
    fn of(library: &Library) -> Result<Self, Failure> {
        // SAFETY: each field has the type that cuda.h gives the function of this name.
        unsafe {
            Ok(Self {
                init: library.function("cuInit")?,
                driver_version: library.function("cuDriverGetVersion")?,
                device: library.function("cuDeviceGet")?,
                name: library.function("cuDeviceGetName")?,
                total_memory: library.function("cuDeviceTotalMem_v2")?,
                context: library.function("cuCtxCreate_v2")?,
                module: library.function("cuModuleLoadData")?,
                entry: library.function("cuModuleGetFunction")?,
                allocate: library.function("cuMemAlloc_v2")?,
                to_device: library.function("cuMemcpyHtoD_v2")?,
                to_host: library.function("cuMemcpyDtoH_v2")?,
                launch: library.function("cuLaunchKernel")?,
                synchronize: library.function("cuCtxSynchronize")?,
            })
        }
    }
}

fn check(what: &str, status: Status) -> Result<(), Failure> {
    if status == 0 { Ok(()) } else { Err(format!("{what} gave CUresult {status}")) }
}

fn probe() -> Result<(), Failure> {
    let library = Library::open("libcuda.so.1")?;
    let cuda = Cuda::of(&library)?;
    let (mut version, mut device, mut memory) = (0, 0, 0);
    let mut name = [0_u8; 128];
    // SAFETY: every pointer leads to a variable of the type that is written, the name's length is
    // its array's.
    unsafe {
        check("cuInit", (cuda.init)(0))?;
        check("cuDriverGetVersion", (cuda.driver_version)(&raw mut version))?;
        check("cuDeviceGet", (cuda.device)(&raw mut device, 0))?;
        check("cuDeviceGetName", (cuda.name)(name.as_mut_ptr().cast(), 128, device))?;
        check("cuDeviceTotalMem", (cuda.total_memory)(&raw mut memory, device))?;
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(|error| error.to_string())?.to_string_lossy();
    println!("device {name}");
    println!("memory-mib {}", memory >> 20);
    println!("cuda {}.{}", version / 1000, version % 1000 / 10);
    println!("sum-of {} right", add(&cuda, device)?);
    // Link-time optimisation opens it, and nothing else does.
    let _nvvm = Library::open("libnvidia-nvvm.so.4")?;
    let mapped = mapped()?;
    for path in mapped {
        println!("mapped {path}");
    }
    Ok(())
}

/// Adds two vectors on the GPU, and checks the sum here. Returns their length.
fn add(cuda: &Cuda, device: c_int) -> Result<usize, Failure> {
    let ptx = CString::new(PTX).map_err(|error| error.to_string())?;
    let entry = CString::new("add").map_err(|error| error.to_string())?;
    let (mut context, mut module, mut function) = (null_mut(), null_mut(), null_mut());
    // Whole numbers that a float holds exactly, and so does their sum.
    let number = |i: usize| f32::from(u16::try_from(i % 4096).unwrap_or_default());
    let a: Vec<f32> = (0..LENGTH).map(number).collect();
    let b: Vec<f32> = (0..LENGTH).map(|i| number(3 * i + 7)).collect();
    let mut sum = vec![0_f32; LENGTH];
    let bytes = LENGTH * size_of::<f32>();
    let mut pointers: [DevicePointer; 3] = [0; 3];
    let mut length = c_uint::try_from(LENGTH).map_err(|error| error.to_string())?;
    // SAFETY: strings end in NUL; every buffer has `bytes` bytes; the kernel's parameters are
    // passed by address, in number and type as the PTX declares them, and live until the launch is
    // over.
    unsafe {
        check("cuCtxCreate", (cuda.context)(&raw mut context, 0, device))?;
        check("cuModuleLoadData (PTX)", (cuda.module)(&raw mut module, ptx.as_ptr().cast()))?;
        check("cuModuleGetFunction", (cuda.entry)(&raw mut function, module, entry.as_ptr()))?;
        for pointer in &mut pointers {
            check("cuMemAlloc", (cuda.allocate)(pointer, bytes))?;
        }
        check("cuMemcpyHtoD", (cuda.to_device)(pointers[0], a.as_ptr().cast(), bytes))?;
        check("cuMemcpyHtoD", (cuda.to_device)(pointers[1], b.as_ptr().cast(), bytes))?;
        let mut parameters: Vec<*mut c_void> = pointers.iter_mut().map(|p| (&raw mut *p).cast()).collect();
        parameters.push((&raw mut length).cast());
        let blocks = length.div_ceil(BLOCK);
        let launched = (cuda.launch)(
            function,
            blocks,
            1,
            1,
            BLOCK,
            1,
            1,
            0,
            null_mut(),
            parameters.as_mut_ptr(),
            null_mut(),
        );
        check("cuLaunchKernel", launched)?;
        check("cuCtxSynchronize", (cuda.synchronize)())?;
        check("cuMemcpyDtoH", (cuda.to_host)(sum.as_mut_ptr().cast(), pointers[2], bytes))?;
    }
    let wrong = (0..LENGTH).find(|&i| (sum[i] - (a[i] + b[i])).abs() > f32::EPSILON);
    match wrong {
        None => Ok(LENGTH),
        Some(i) => Err(format!("element {i}: the GPU says {} + {} = {}", a[i], b[i], sum[i])),
    }
}

/// The driver's files that this process has mapped.
fn mapped() -> Result<BTreeSet<String>, Failure> {
    let maps =
        std::fs::read_to_string("/proc/self/maps").map_err(|error| format!("/proc/self/maps: {error}"))?;
    let paths = maps.lines().filter_map(|line| line.split_once('/').map(|(_, path)| format!("/{path}")));
    let is_driver = |path: &String| {
        let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libcuda") || name.starts_with("libnvidia")
    };
    Ok(paths.filter(is_driver).collect())
}
