//! Sources of artifacts, each with real files: NVIDIA's index of redistributables, a proxy, an
//! installed driver.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use host_builder::common::digest::sha256_file;
use host_builder::pins::lock::{Digest, Lock, Set, SourceKind};
use image::{capability::Capability, manifest::Manifest};
use rig::{build::initrd, process::run};

use super::place::{Place, driver_files, parts};

/// What a dry run plans.
fn planned(place: &Place) -> Manifest {
    let (out, _) = place.good(&["build-initrd", "--dry-run", "--json"]);
    Manifest::from_json(out.as_bytes()).unwrap()
}

/// The driver's files as NVIDIA packs a component, on the server.
fn offer_component(place: &Place) -> String {
    let driver = initrd().driver();
    let name = format!("nvidia_driver-linux-x86_64-{driver}-archive");
    let path = format!("nvidia_driver/linux-x86_64/{name}.tar.xz");
    let archive = place.path("component.tar.xz");
    let mut tar = Command::new("tar");
    tar.env("XZ_OPT", "-0 -T0").arg("-C").arg(parts().path("libs")).arg("-cJf").arg(&archive);
    run(tar.arg(format!("--transform=s#^[.]#{name}#")).arg(".")).unwrap();
    place.server.offer(&format!("/redist/{path}"), Some(&archive));
    path
}

/// The index, in the form of NVIDIA's.
fn offer_index(place: &Place, path: &str, sha256: &str) {
    let (driver, size) = (initrd().driver(), fs::metadata(place.path("component.tar.xz")).unwrap().len());
    let index = serde_json::json!({
        "release_date": "2025-04-17",
        "release_label": "12.4.1",
        "nvidia_driver": {
            "name": "NVIDIA Linux Driver", "license": "NVIDIA Driver", "license_path": "nvidia_driver/LICENSE.txt", "version": driver,
            "linux-x86_64": { "relative_path": path, "sha256": sha256, "md5": "0", "size": size.to_string() },
        },
        "cuda_cudart": { "name": "CUDA Runtime (cudart)", "version": "12.4.127", "linux-x86_64": {} },
    });
    fs::write(place.path("index.json"), index.to_string()).unwrap();
    place.server.offer(&format!("/redist/redistrib_{driver}.json"), Some(&place.path("index.json")));
}

#[test]
fn driver_is_fetched_from_a_redistributable_index() {
    let mut place = Place::new();
    let path = offer_component(&place);
    let digest = sha256_file(&place.path("component.tar.xz")).unwrap();
    offer_index(&place, &path, &digest);
    let page = format!(
        "{}/onkernel/linux/releases/download/{{kernel}}/nvidia-driver-libs-{{arch}}.tar.gz",
        place.server.uri()
    );
    let index = format!("{}/redist/redistrib_{{driver}}.json", place.server.uri());
    place.edit_profile(
        &format!("url = \"{page}\""),
        &format!("url = \"{index}\"\nsource = \"redist\"\ncomponent = \"nvidia_driver\""),
    );

    let (_, err) = place.good(&["pins", "resolve"]);
    assert!(!err.contains("recorded: nvidia-driver-libs"), "the index vouches for it: {err}");
    let locked = place.artifact("nvidia-driver-libs");
    assert_eq!((locked.source, locked.digest), (SourceKind::Redist, Digest::Publisher));
    assert_eq!((locked.sha256.as_str(), locked.version.as_str()), (digest.as_str(), initrd().driver()));
    assert!(locked.url.unwrap().ends_with(&format!("/redist/{path}")));
    assert_eq!(driver_files(&planned(&place)), driver_files(&parts().manifest));
    let (out, _) = place.good(&["pins", "verify"]);
    assert!(out.contains("4 still offered, 0 problems"), "{out}");

    // Fetched again from the lock alone, in two parts.
    fs::remove_file(place.path("cache/blobs/sha256").join(&digest)).unwrap();
    place.server.offer(&format!("/redist/redistrib_{}.json", initrd().driver()), None);
    place.server.cut(&format!("/redist/{path}"), 2_000_000);
    place.good(&["build-initrd", "--dry-run", "--quiet"]);
    let resumed = place
        .server
        .requests()
        .iter()
        .any(|request| request.contains(&path) && request.ends_with("bytes=2000000-"));
    assert!(resumed, "{:?}", place.server.requests());

    place.refuses(&["pins", "resolve"], &["redistrib_", "404"]);
    let other = "0".repeat(64);
    offer_index(&place, &path, &other);
    fs::remove_file(place.path("cache/blobs/sha256").join(&digest)).unwrap();
    place.refuses(&["pins", "resolve"], &[&path, &other, &digest]);
    place.edit_profile("component = \"nvidia_driver\"", "component = \"fabricmanager\"");
    place.refuses(&["pins", "resolve"], &["no component \"fabricmanager\"", "nvidia_driver"]);
}

/// A company's proxy, which opens connections to any address, or refuses all of them.
struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(opens: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), asked: Arc::default() };
        let asked = Arc::clone(&proxy.asked);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let asked = Arc::clone(&asked);
                thread::spawn(move || drop(tunnel(&client, opens, &asked)));
            }
        });
        proxy
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn tunnel(mut client: &TcpStream, opens: bool, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let lines =
        BufReader::new(client.try_clone()?).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let request = lines.collect::<Vec<_>>().swap_remove(0);
    asked.lock().unwrap().push(request.clone());
    let Some(target) = request.strip_prefix("CONNECT ").filter(|_| opens) else {
        return write!(client, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    // Names that only the proxy knows are this machine.
    let port = target.split(' ').next().unwrap().rsplit(':').next().unwrap();
    let server = TcpStream::connect(format!("127.0.0.1:{port}"))?;
    write!(client, "HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || std::io::copy(&mut from, &mut to));
    std::io::copy(&mut &server, &mut client)?;
    client.shutdown(std::net::Shutdown::Both)
}

#[test]
fn downloads_use_the_proxy_of_the_environment() {
    let mut place = Place::new();
    // Only the proxy knows this host.
    let uri = place.server.uri();
    place.edit_profile(&uri, &uri.replace("127.0.0.1", "behind-the-proxy.invalid"));
    let resolve = |variable: &str, proxy: &Proxy, no_proxy: &str| {
        let mut command = place.command(&["pins", "resolve"]);
        command.env(variable, format!("http://127.0.0.1:{}", proxy.port)).env("NO_PROXY", no_proxy);
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let refusing = Proxy::start(false);
    let (success, text) = resolve("HTTP_PROXY", &refusing, "");
    assert!(!success && text.contains("proxy") && text.contains("403") && text.contains("CONNECT"), "{text}");
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        let opening = Proxy::start(true);
        let (success, text) = resolve(variable, &opening, "");
        assert!(success, "{variable}: {text}");
        let asked = opening.asked();
        assert!(
            asked.iter().all(|request| request.starts_with("CONNECT behind-the-proxy.invalid:")),
            "{asked:?}"
        );
        assert!(!asked.is_empty());
    }
    assert_eq!(place.lock().artifact.len(), 4);
    let passed_by = Proxy::start(true);
    let (success, text) = resolve("HTTP_PROXY", &passed_by, "behind-the-proxy.invalid");
    assert!(!success && passed_by.asked().is_empty(), "{text}");
}

/// Debian's packages of the kernel and of the driver, unpacked into a directory as on a machine
/// that has them installed.
fn installed(root: &Path) {
    let lock = Lock::read(&initrd().lock).unwrap().unwrap();
    let cache = rig::build::cache().unwrap();
    let sets = [
        Set::Kernel,
        Set::Firmware,
        Set::Userspace(Capability::Compute),
        Set::Userspace(Capability::Utility),
    ];
    for artifact in lock.sets(&sets) {
        run(Command::new("dpkg-deb").arg("-x").arg(cache.blob(&artifact.sha256).unwrap()).arg(root)).unwrap();
    }
    // What Debian's DKMS leaves, under names of its own, and what the alternatives of
    // glx-alternative-nvidia are.
    let release = initrd().release();
    let dkms = root.join(format!("usr/lib/modules/{release}/updates/dkms"));
    fs::create_dir_all(&dkms).unwrap();
    let built = parts().path("modules/lib/modules").join(release).join("kernel/drivers/gpu");
    for module in fs::read_dir(built).unwrap().map(Result::unwrap) {
        let name = module.file_name().into_string().unwrap().replacen("nvidia", "nvidia-current", 1);
        fs::copy(module.path(), dkms.join(name)).unwrap();
    }
    let alternatives = root.join("etc/alternatives");
    fs::create_dir_all(&alternatives).unwrap();
    let library = "usr/lib/x86_64-linux-gnu/libcuda.so.1";
    symlink(
        "/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.1",
        alternatives.join("nvidia--libcuda.so.1"),
    )
    .unwrap();
    let _ = fs::remove_file(root.join(library));
    symlink("/etc/alternatives/nvidia--libcuda.so.1", root.join(library)).unwrap();
}

#[test]
fn installed_driver_is_packed_like_its_packages() {
    let mut place = Place::new();
    let root = place.path("a root");
    fs::create_dir(&root).unwrap();
    installed(&root);
    let (driver, release) = (initrd().driver(), initrd().release());
    let profile = format!(
        "name = \"installed\"\ndescription = \"x\"\narch = \"x86_64\"\ndriver = \"{driver}\"\n\
         [kernel]\nrelease = \"{release}\"\nmodules = [\"virtio_blk\", \"ext4\", \"overlay\", \"vmw_vsock_virtio_transport\"]\n\
         [modules]\nload = [\"nvidia\", \"nvidia_uvm\", \"nvidia_modeset\", \"nvidia_drm\"]\n\
         [[artifact]]\nname = \"installed\"\nsets = [\"kernel\", \"gpu-modules\", \"driver\", \"firmware\"]\nurl = \"host:{}\"\n",
        root.display()
    );
    place.set_profile(profile);
    let manifest = planned(&place);
    assert_eq!(driver_files(&manifest), driver_files(&parts().manifest));
    assert_eq!(manifest.kernel_release, release);
    place.good(&["build-initrd", "--quiet"]);
    assert_eq!(sha256_file(&place.path("out/vmlinuz")).unwrap(), sha256_file(&initrd().kernel).unwrap());
    let mut verify = Command::new(rig::build::program());
    place.prepare(verify.args(["verify", "out/initrd.img", "--lock", "r.lock"]));
    let output = verify.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (out, _) = place.good(&["pins", "verify"]);
    assert!(out.contains("1 still offered, 0 problems"), "{out}");

    // An upgraded driver of the machine is not used in place of the locked one.
    let library = root.join(format!("usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.{driver}"));
    fs::rename(&library, library.with_file_name("libcuda.so.999.1")).unwrap();
    fs::remove_dir_all(place.path("cache")).unwrap();
    place.refuses(&["build-initrd"], &[driver, "999.1"]);
}
