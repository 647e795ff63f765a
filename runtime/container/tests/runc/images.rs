//! Archives and layers, the hostile ones included.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use orlop_container::RuntimeError;
use orlop_container::cri::*;
use orlop_container::image::store::ImageStore;
use orlop_container::image::unpack::unpack;
use serde_json::json;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_of_archive_in_every_packing() {
    let f = Fixture::new().await;
    let run = json!({"Cmd": ["cat", "/version"], "Env": ["A=1"]});
    for (n, packing) in [Packing::Plain, Packing::Gzip, Packing::Zstd].into_iter().enumerate() {
        let top = tar(&[file("version", format!("v{n}\n").as_bytes())]);
        let parts = parts(&[busybox_layer(), top], packing, run.clone());
        let name = format!("app:oci{n}");
        assert_eq!(f.import(&name, &parts).await, [format!("docker.io/library/{name}")]);
        let docker = f.folder.path().join("docker.tar");
        let packed = pack(&docker_archive(&parts, &format!("app:docker{n}")), packing);
        std::fs::write(&docker, packed).unwrap();
        let imported = f.runtime.import_image(docker).await.unwrap();
        assert_eq!(imported, [format!("docker.io/library/app:docker{n}")]);
        // The same configuration is the same image, whatever it came in.
        let image = f.runtime.image_status(&ImageSpec::new(format!("app:docker{n}"))).await.unwrap().unwrap();
        assert_eq!(image.repo_tags.len(), 2);
        assert_eq!(image.id, digest(&parts.config));
        assert_eq!(image.repo_digests, [format!("docker.io/library/app@{}", digest(&parts.manifest))]);
    }
    let pod = f.run_pod("versions").await;
    let mut config = shell("main", "");
    config.command = Vec::new();
    config.image = ImageSpec::new("app:oci2");
    let id = f.run_container(&pod, config).await;
    f.wait_exit(&id).await;
    assert_eq!(f.log_text(&id).await, "v2\n", "the image's own command");
    assert!(
        f.runtime.container_status(&id).await.unwrap().image_ref.starts_with("docker.io/library/app@sha256:")
    );
    // A tag moves to the newest image.
    let newer = parts(&[busybox_layer()], Packing::Plain, run);
    f.import("app:oci0", &newer).await;
    let moved = f.runtime.image_status(&ImageSpec::new("app:oci0")).await.unwrap().unwrap();
    assert_eq!(moved.id, digest(&newer.config));
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_spares_what_is_in_use() {
    let f = Fixture::new().await;
    let layers = || std::fs::read_dir(f.runtime.images().layers_dir()).unwrap().count();
    let before = layers();
    let only = tar(&[file("only", b"here")]);
    let image = parts(&[busybox_layer(), only], Packing::Gzip, json!({}));
    f.import("gone:1", &image).await;
    assert_eq!(layers(), before + 1, "busybox's layer is shared");
    let pod = f.run_pod("user").await;
    let mut config = shell("main", "until test -e /tmp/go; do sleep 0.02; done; cat /only");
    config.image = ImageSpec::new("gone:1");
    let id = f.run_container(&pod, config).await;
    f.runtime.remove_image(&ImageSpec::new("gone:1")).await.unwrap();
    f.runtime.remove_image(&ImageSpec::new("gone:1")).await.unwrap();
    assert!(f.runtime.image_status(&ImageSpec::new("gone:1")).await.unwrap().is_none());
    assert_eq!(layers(), before + 1);
    f.runtime
        .exec_sync(&id, vec!["/bin/sh".into(), "-c".into(), "echo > /tmp/go".into()], PATIENCE)
        .await
        .unwrap();
    f.wait_exit(&id).await;
    assert_eq!(f.log_text(&id).await, "here\n");
    f.runtime.remove_container(&id).await.unwrap();
    assert_eq!(layers(), before);
    let usage = f.runtime.image_fs_info().await.unwrap();
    assert!(usage.image_filesystem.used_bytes > 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_layers_are_mounted() {
    let f = Fixture::new().await;
    let mut layers = vec![busybox_layer()];
    let names: Vec<String> = (0..120).map(|n| format!("layer{n}")).collect();
    layers.extend(names.iter().map(|n| tar(&[file(n, n.as_bytes())])));
    f.import("deep:1", &parts(&layers, Packing::Plain, json!({}))).await;
    let pod = f.run_pod("deep").await;
    let mut config = shell("main", "cat /layer0 /layer119");
    config.image = ImageSpec::new("deep:1");
    let id = f.run_container(&pod, config).await;
    assert_eq!(f.wait_exit(&id).await.exit_code, 0, "{}", f.log(&id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn upper_layers_hide_lower_ones() {
    let f = Fixture::new().await;
    let lower = tar(&[
        folder("d"),
        file("d/old", b"1"),
        folder("e"),
        file("e/old", b"1"),
        file("gone", b"1"),
        folder("f"),
        file("f/old", b"1"),
    ]);
    let upper = tar(&[
        file("d/.wh..wh..opq", b""),
        file("d/new", b"2"),
        file("e/.wh.old", b""),
        file(".wh.gone", b""),
        file(".wh.f", b""),
        folder("f"),
    ]);
    f.import("white:1", &parts(&[busybox_layer(), lower, upper], Packing::Gzip, json!({}))).await;
    let pod = f.run_pod("white").await;
    let mut config = shell("main", "ls d; ls e; ls f; test -e gone || echo gone");
    config.image = ImageSpec::new("white:1");
    let id = f.run_container(&pod, config).await;
    f.wait_exit(&id).await;
    assert_eq!(f.log_text(&id).await, "new\ngone\n");
}

#[test]
fn layers_keep_what_they_say() {
    let target = tempfile::tempdir().unwrap();
    let layer = tar(&[
        folder("a"),
        TarEntry { mode: 0o4755, ..file("a/suid", b"x") },
        hardlink("a/hard", "a/suid"),
        symlink("a/soft", "/absolute"),
        TarEntry { kind: tar::EntryType::Fifo, ..file("a/fifo", b"") },
        file("a/replaced", b"first"),
        file("a/replaced", b"second"),
        file("/rooted", b"r"),
        file("implied/parents/f", b"i"),
    ]);
    let packed = pack(&layer, Packing::Gzip);
    assert_eq!(unpack(packed.as_slice(), target.path()).unwrap(), digest(&layer));
    let at = |path: &str| target.path().join(path);
    let meta = |path: &str| std::fs::symlink_metadata(at(path)).unwrap();
    assert_eq!(meta("a/suid").mode() & 0o7777, 0o4755);
    assert_eq!(meta("a/suid").mtime(), 1_700_000_000);
    assert_eq!(meta("a").mtime(), 1_700_000_000);
    assert_eq!(meta("a/hard").ino(), meta("a/suid").ino());
    assert_eq!(std::fs::read_link(at("a/soft")).unwrap().to_str(), Some("/absolute"));
    assert!(meta("a/fifo").file_type().is_fifo());
    assert_eq!(std::fs::read(at("a/replaced")).unwrap(), b"second");
    assert_eq!(std::fs::read(at("rooted")).unwrap(), b"r");
    assert_eq!(std::fs::read(at("implied/parents/f")).unwrap(), b"i");
}

#[test]
fn hostile_layers_reach_nothing() {
    let folder_of_test = tempfile::tempdir().unwrap();
    let outside = folder_of_test.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    let out = outside.to_str().unwrap();
    let up = format!("../outside/{}", "f");
    let through = format!("{out}/secret");
    let cases: Vec<(&str, Vec<TarEntry<'_>>, bool)> = vec![
        ("a path upwards", vec![file("../outside/f", b"x")], true),
        ("a path upwards inside", vec![folder("a"), file("a/../../outside/f", b"x")], true),
        ("through an absolute link", vec![symlink("l", out), file("l/f", b"x")], true),
        ("through a relative link", vec![symlink("l", "../outside"), file("l/f", b"x")], true),
        ("over a link", vec![symlink("f", &through), file("f", b"x")], false),
        ("a hard link out", vec![hardlink("h", &through)], true),
        ("a hard link upwards", vec![hardlink("h", &up)], true),
        ("a hard link to a link", vec![symlink("l", &through), hardlink("h", "l"), file("h", b"x")], false),
        ("a hard link through a link", vec![symlink("l", out), hardlink("h", "l/secret")], true),
        ("a whiteout upwards", vec![symlink("l", out), file("l/.wh.secret", b"")], true),
        ("a folder over a link", vec![symlink("l", out), folder("l"), file("l/f", b"x")], false),
        ("a whiteout of the parent", vec![file(".wh...", b"")], true),
    ];
    for (name, entries, refused) in cases {
        let target = folder_of_test.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let result = unpack(tar(&entries).as_slice(), &target);
        match (refused, &result) {
            (true, Err(RuntimeError::InvalidImage(_))) | (false, Ok(_)) => {}
            _ => panic!("{name}: {result:?}"),
        }
        let there: Vec<_> = std::fs::read_dir(&outside).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(there, ["secret"], "{name}");
        assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "secret", "{name}");
        assert_eq!(std::fs::metadata(outside.join("secret")).unwrap().nlink(), 1, "{name}");
        std::fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn damaged_images_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&root.path().join("images")).unwrap();
    let good = parts(&[tar(&[file("f", b"x")])], Packing::Gzip, json!({}));
    let archive = root.path().join("a.tar");
    let check = |parts: &Parts, wanted: &str| {
        std::fs::write(&archive, oci_archive(parts, "bad:1")).unwrap();
        let error = orlop_container::image::archive::import(&store, &archive).unwrap_err();
        assert!(
            matches!(error, RuntimeError::InvalidImage(_)) && error.to_string().contains(wanted),
            "{error}"
        );
        assert!(store.list().is_empty());
        assert_eq!(std::fs::read_dir(store.layers_dir()).unwrap().count(), 1, "only the empty layer");
        assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    };
    let mut other_layer = parts(&[tar(&[file("f", b"x")])], Packing::Gzip, json!({}));
    other_layer.layers[0] = pack(&tar(&[file("f", b"y")]), Packing::Gzip);
    check(&other_layer, "the archive lacks");
    // The manifest's digest fits, the content of the layer does not fit its diff id.
    let mut lying = parts(&[tar(&[file("f", b"y")])], Packing::Gzip, json!({}));
    lying.config = good.config.clone();
    lying.manifest = String::from_utf8(lying.manifest)
        .unwrap()
        .replace(
            &digest(&parts(&[tar(&[file("f", b"y")])], Packing::Gzip, json!({})).config),
            &digest(&good.config),
        )
        .into_bytes();
    check(&lying, "has the content of");
    std::fs::write(&archive, b"nothing like an archive").unwrap();
    let error = orlop_container::image::archive::import(&store, &archive).unwrap_err();
    assert!(matches!(error, RuntimeError::InvalidImage(_)), "{error}");
    std::fs::write(&archive, oci_archive(&good, "good:1")).unwrap();
    orlop_container::image::archive::import(&store, &archive).unwrap();
    drop(store);
    // What a crash left half-done goes when the store is opened again; the image stays.
    std::fs::create_dir(root.path().join("images/tmp/7")).unwrap();
    let store = ImageStore::open(&root.path().join("images")).unwrap();
    assert!(store.find("good:1").unwrap().is_some());
    assert_eq!(std::fs::read_dir(root.path().join("images/tmp")).unwrap().count(), 0);
    store.remove("good:1").unwrap();
    assert_eq!(std::fs::read_dir(store.layers_dir()).unwrap().count(), 1);
}
