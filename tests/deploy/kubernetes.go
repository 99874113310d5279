package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/rbac"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	rbacvalidation "k8s.io/kubernetes/pkg/apis/rbac/validation"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// kubernetes builds a kustomization and has every object of it judged as an API server judges it.
func kubernetes(folder string) (string, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return "", err
	}
	// Strict: an unknown or doubled field is an error, as with `kubectl --validate=strict`.
	codecs := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks())
	if err != nil {
		return "", err
	}
	var found []string
	var wrong []error
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return "", err
		}
		name := resource.GetKind() + "/" + resource.GetName()
		found = append(found, name)
		object, _, err := codecs.UniversalDeserializer().Decode(text, nil, nil)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
			continue
		}
		// What the server fills in, before it validates.
		legacyscheme.Scheme.Default(object)
		if errs := validate(object); len(errs) > 0 {
			wrong = append(wrong, fmt.Errorf("%s: %w", name, errs.ToAggregate()))
		}
		if pod := template(object); pod != nil {
			wrong = append(wrong, restricted(evaluator, name, pod)...)
			wrong = append(wrong, beside(name, pod)...)
		}
	}
	if len(found) == 0 {
		return "", errors.New("there is nothing in it")
	}
	return strings.Join(found, ", "), errors.Join(wrong...)
}

// validate is what the API server says of a new object of this kind.
func validate(object runtime.Object) field.ErrorList {
	group, err := legacyscheme.Scheme.ConvertToVersion(object, runtime.InternalGroupVersioner)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	pods := corevalidation.PodValidationOptions{AllowSidecarResizePolicy: true}
	switch of := group.(type) {
	case *core.Namespace:
		return corevalidation.ValidateNamespace(of)
	case *core.ServiceAccount:
		return corevalidation.ValidateServiceAccount(of)
	case *core.Service:
		// As the server's storage fills it in, behind its defaults.
		if of.Spec.ClusterIP != "" && len(of.Spec.ClusterIPs) == 0 {
			of.Spec.ClusterIPs = []string{of.Spec.ClusterIP}
		}
		return corevalidation.ValidateServiceCreate(of)
	case *apps.Deployment:
		return appsvalidation.ValidateDeployment(of, pods)
	case *apps.StatefulSet:
		return appsvalidation.ValidateStatefulSet(of, pods)
	case *rbac.ClusterRoleBinding:
		return rbacvalidation.ValidateClusterRoleBinding(of)
	default:
		return field.ErrorList{field.InternalError(nil, fmt.Errorf("nobody judges a %T here", of))}
	}
}

func template(object runtime.Object) *corev1.PodTemplateSpec {
	switch of := object.(type) {
	case *appsv1.Deployment:
		return &of.Spec.Template
	case *appsv1.StatefulSet:
		return &of.Spec.Template
	default:
		return nil
	}
}

// restricted asks the strictest of the Pod Security Standards, and for what it does not ask: a root that
// cannot be written, and bounds of memory.
func restricted(evaluator policy.Evaluator, name string, pod *corev1.PodTemplateSpec) []error {
	var wrong []error
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for _, result := range evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
		if !result.Allowed {
			wrong = append(wrong, fmt.Errorf("%s: %s: %s", name, result.ForbiddenReason, result.ForbiddenDetail))
		}
	}
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		security := container.SecurityContext
		if security == nil || security.ReadOnlyRootFilesystem == nil || !*security.ReadOnlyRootFilesystem {
			wrong = append(wrong, fmt.Errorf("%s: the root of %s can be written", name, container.Name))
		}
		if container.Resources.Limits.Memory().IsZero() || container.Resources.Requests.Cpu().IsZero() {
			wrong = append(wrong, fmt.Errorf("%s: %s has no resources", name, container.Name))
		}
	}
	return wrong
}

// beside says what is wrong with a pod's sidecar: each but control's has one, a native one that the app
// waits for.
func beside(name string, pod *corev1.PodTemplateSpec) []error {
	if name == "StatefulSet/control" {
		control := pod.Spec.Containers[0]
		if control.ReadinessProbe == nil || control.LivenessProbe == nil {
			return []error{fmt.Errorf("%s: it has not two probes", name)}
		}
		return nil
	}
	if len(pod.Spec.InitContainers) != 1 {
		return []error{fmt.Errorf("%s: %d init containers, and not its sidecar", name, len(pod.Spec.InitContainers))}
	}
	sidecar := pod.Spec.InitContainers[0]
	var wrong []error
	if policy := sidecar.RestartPolicy; policy == nil || *policy != corev1.ContainerRestartPolicyAlways {
		wrong = append(wrong, fmt.Errorf("%s: the sidecar does not stay", name))
	}
	probe := sidecar.StartupProbe
	if probe == nil || probe.Exec == nil || !slices.Contains(probe.Exec.Command, "wait") {
		wrong = append(wrong, fmt.Errorf("%s: the app does not wait for `sidelane wait`", name))
	}
	if sidecar.ReadinessProbe == nil || sidecar.LivenessProbe == nil {
		wrong = append(wrong, fmt.Errorf("%s: the sidecar has not two probes", name))
	}
	if pod.Spec.ServiceAccountName == "" || pod.Spec.ServiceAccountName == "default" {
		wrong = append(wrong, fmt.Errorf("%s: it has no account of its own", name))
	}
	return wrong
}
